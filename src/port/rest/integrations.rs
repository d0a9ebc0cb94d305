//! `/v1/integrations`: create, list, rotate and delete. A key manages its own tenant; operators may name any.

use std::{fmt::Write, sync::Arc};

use axum::{
    Json,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::{
    caller::{Caller, Permitted, Sent, detail},
    request::QueryString,
};
use crate::{
    api::{
        integrations::{ChangedIntegration, Integration, RotateIntegration},
        list::{List, Page},
        problem::{Code, INVALID_PAYLOAD, NAME_TAKEN, REFERENCE_NOT_ALLOWED},
    },
    bridges::{Definition, Fault, secret_faults},
    controls::{self, Credential, HookToken, HookTokenHash, IntegrationDefinition, SECRETS_MAX},
    port::problem::{Problem, Refused},
};

/// How long replaced secrets stay valid by default: a day.
const OVERLAP_S: u32 = 86_400;
/// The longest overlap: a year.
const OVERLAP_MAX_S: u32 = 31_536_000;

const NOT_THERE: &str = "there is no such integration";

/// `POST /v1/integrations`.
pub(crate) async fn create(Sent(caller, body): Sent<Caller>) -> Result<Response, Refused> {
    let bytes = body.bytes().map_err(|problem| caller.refuse(problem))?;
    let request = Definition::parse(&bytes).map_err(|faults| caller.refuse(problem_of(&faults)))?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(request.tenant.as_deref())?;
    let (credentials, token) = if request.source.dialect.signs() {
        let secrets = request.source.secrets.all().iter();
        let secrets = secrets.map(|secret| Credential::Secret(Arc::clone(&secret.text)));
        (secrets.collect(), None)
    } else {
        let token = HookToken::generate();
        let hash = HookTokenHash::of(&token);
        (vec![Credential::Token(hash)], Some(token))
    };
    let definition = readable(&request);
    let now = caller.shared.clock.now();
    let by = (caller.key.principal.as_str(), now);
    let created = caller
        .shared
        .controls
        .create_integration(tenant, definition, credentials, by)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    let Some(created) = created else {
        let detail = format!("there is an integration `{}`", request.source.name);
        return Err(caller.refuse(Problem::new(&NAME_TAKEN, detail)));
    };
    // The mapping is compiled now, so that the first webhook need not wait for it.
    caller
        .shared
        .hooks
        .sources
        .put(&created, Some(request.source.clone()));
    audit(&caller, &created, "integration.created", Map::new()).await;
    let shown = ChangedIntegration::new(&created, token.as_ref().map(HookToken::reveal));
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(shown)).into_response())
}

/// `GET /v1/integrations`.
pub(crate) async fn list(caller: Caller, page: QueryString<Page>) -> Result<Response, Refused> {
    let page = caller.query(page)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(page.tenant.as_deref())?;
    let limit = page.limit().map_err(|e| caller.invalid(e))?;
    let now = caller.shared.clock.now();
    let mut all = caller.shared.controls.integrations(&tenant);
    // Ids grow with time, so the last id shown is a valid cursor even after its integration was deleted.
    all.retain(|one| page.cursor.as_ref().is_none_or(|cursor| one.id < *cursor));
    let items = all.iter().take(limit);
    let answer = List {
        items: items.map(|one| Integration::new(one, now)).collect(),
        next_cursor: (all.len() > limit).then(|| all[limit - 1].id.clone()),
    };
    Ok(Json(answer).into_response())
}

/// `POST /v1/integrations/{id}/rotate`.
pub(crate) async fn rotate(
    Path(id): Path<String>,
    Sent(caller, body): Sent<Caller>,
) -> Result<Response, Refused> {
    let request: RotateIntegration = caller.body(body)?;
    let overlap_s = request.overlap_s.unwrap_or(OVERLAP_S);
    if overlap_s > OVERLAP_MAX_S {
        return Err(caller.invalid(format!(
            "`/overlap_s`: must be at most {OVERLAP_MAX_S} (a year)"
        )));
    }
    let caller = caller.permit()?;
    let current = visible(&caller, &id)?;
    let (credential, token) = credential(&caller, &current, request.secret.as_deref())?;
    let now = caller.shared.clock.now();
    if current
        .rotated(credential.clone(), now, overlap_s)
        .credentials(now)
        > SECRETS_MAX
    {
        return Err(too_many_valid(&caller));
    }
    let by = (caller.key.principal.as_str(), now);
    let rotated = caller
        .shared
        .controls
        .rotate_integration(&id, credential, overlap_s, by)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    let Some(rotated) = rotated else {
        // Deleted meanwhile, or concurrent rotations have added the last secrets that may be valid.
        visible(&caller, &id)?;
        return Err(too_many_valid(&caller));
    };
    let mut detail = Map::new();
    detail.insert("overlap_s".into(), overlap_s.into());
    audit(&caller, &rotated, "integration.rotated", detail).await;
    let shown = ChangedIntegration::new(&rotated, token.as_ref().map(HookToken::reveal));
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(shown)).into_response())
}

/// `DELETE /v1/integrations/{id}`. An integration of another tenant is reported as not found.
pub(crate) async fn delete(
    caller: Permitted,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let integration = visible(&caller, &id)?;
    let by = (caller.key.principal.as_str(), caller.shared.clock.now());
    caller
        .shared
        .controls
        .remove_integration(&integration, by)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    audit(&caller, &integration, "integration.deleted", Map::new()).await;
    Ok(StatusCode::NO_CONTENT)
}

fn too_many_valid(caller: &Permitted) -> Refused {
    caller.invalid(format!(
        "{SECRETS_MAX} are already valid; with an overlap of 0 the previous ones end at once"
    ))
}

fn visible(caller: &Permitted, id: &str) -> Result<Arc<controls::Integration>, Refused> {
    let own =
        |one: &Arc<controls::Integration>| one.tenant == caller.key.tenant || caller.is_operator();
    let found = caller.shared.controls.integration(id).filter(own);
    found.ok_or_else(|| caller.not_found(NOT_THERE))
}

/// Creates the new secret; for a dialect that does not sign, a new token, which is also returned.
fn credential(
    caller: &Permitted,
    integration: &controls::Integration,
    secret: Option<&str>,
) -> Result<(Credential, Option<HookToken>), Refused> {
    let signs = integration.tokens.is_empty();
    match secret {
        None if signs => Err(caller.missing("secret")),
        None => {
            let token = HookToken::generate();
            Ok((Credential::Token(HookTokenHash::of(&token)), Some(token)))
        }
        Some(_) if !signs => {
            Err(caller.invalid("`/secret`: this dialect does not sign; it gets a new token"))
        }
        Some(secret) => {
            let faults = secret_faults(&integration.definition.dialect, secret);
            if !faults.is_empty() {
                return Err(caller.refuse(problem_of(&faults)));
            }
            Ok((Credential::Secret(secret.into()), None))
        }
    }
}

/// The part of a definition that is not secret.
fn readable(request: &Definition) -> IntegrationDefinition {
    let member = |name: &str| request.members.get(name).filter(|value| !value.is_null());
    IntegrationDefinition {
        name: request.source.name.clone(),
        dialect: request.source.dialect.name().to_owned(),
        mapping: member("mapping").and_then(Value::as_str).map(str::to_owned),
        hmac: member("hmac").cloned(),
        odoo: member("odoo").cloned(),
    }
}

/// Reports all faults with their pointers, under the code of the first one; a secret that is a reference comes first.
fn problem_of(faults: &[Fault]) -> Problem {
    let mut detail = String::new();
    for fault in faults {
        let separator = if detail.is_empty() { "" } else { "; " };
        let pointer = if fault.pointer.is_empty() {
            String::new()
        } else {
            format!("`{}`: ", fault.pointer)
        };
        // Writing to a `String` cannot fail.
        let _ = write!(detail, "{separator}{pointer}{}", fault.message);
    }
    let reference = |fault: &&Fault| fault.code == REFERENCE_NOT_ALLOWED.code;
    let first = faults.iter().find(reference).or(faults.first());
    let name = first.map_or(INVALID_PAYLOAD.code, |fault| fault.code.as_str());
    let code = Code::of(name).unwrap_or(&INVALID_PAYLOAD);
    Problem::named(code, name.to_owned(), detail)
}

async fn audit(
    caller: &Permitted,
    integration: &controls::Integration,
    action: &str,
    more: Map<String, Value>,
) {
    let (id, tenant) = (integration.id.as_str(), &integration.tenant);
    let definition = &integration.definition;
    tracing::info!(id, %tenant, name = definition.name, by = caller.key.principal, action);
    let mut detail = detail([("name", &definition.name), ("dialect", &definition.dialect)]);
    detail.extend(more);
    let of = ("integration", id);
    caller.audit_change(tenant, action, of, detail).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_in_one_problem() {
        let body = br#"{"name":"a b","dialect":"ipai","secrets":["env:X",1],"x":1}"#;
        let problem = problem_of(&Definition::parse(body).unwrap_err());
        assert_eq!(problem.code(), &REFERENCE_NOT_ALLOWED);
        let problem = problem_of(&Definition::parse(b"{}").unwrap_err());
        assert_eq!(problem.code().code, "missing_{field}");
    }
}
