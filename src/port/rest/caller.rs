//! Authentication and permissions: axum's extractors, which take the required permission from the route's line in the table.
//!
//! | extractor | checks |
//! |---|---|
//! | [`Caller`] | the key; a handler that reports an invalid field before a missing permission continues with [`Caller::permit`] |
//! | [`Permitted`] | the key and the permission |
//! | [`Sent`] | one of these, and reads the body after it |

use std::{fmt::Display, net::IpAddr, ops::Deref, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderValue, StatusCode, header::USER_AGENT, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::request::{BODY_BYTES, JsonBody, QueryString};
use crate::{
    api::{
        Access, Gate, Route,
        problem::{LOG_UNAVAILABLE, NOT_FOUND, PARTITION_COUNT, UNKNOWN_TOPIC},
    },
    audit::{Entry, Outcome},
    base::id::Tenant,
    controls::{ACT_AS, ADMIN, ControlsError, Key, KeyKind, OPERATOR},
    log::LogError,
    port::{
        RequestId, Shared, auth,
        denials::Denied,
        gate,
        ingest::body,
        peer::Peer,
        problem::{LOG_RETRY_AFTER_S, Problem, Refused},
    },
};

/// The sender of a request with a valid key.
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Arc<Key>,
    /// The user on whose behalf the request is made. Only a [`Permitted`] caller may name one.
    pub(crate) on_behalf_of: Option<String>,
    /// The route's line in the table.
    route: Option<&'static Route>,
    /// The permission that the route requires.
    permission: &'static str,
    id: RequestId,
    /// The client's address and its `User-Agent`.
    address: IpAddr,
    user_agent: Option<HeaderValue>,
}

/// A caller whose key has the permission that the route requires.
pub(crate) struct Permitted(Caller);

/// A caller and the body, which is read once the caller is known.
pub(crate) struct Sent<C>(pub(crate) C, pub(crate) JsonBody);

/// Like [`Sent`], with a body of up to `BYTES` bytes.
pub(crate) struct SentUpTo<const BYTES: usize, C>(pub(crate) C, pub(crate) JsonBody);

/// The detail of an audit entry that consists of texts.
pub(crate) fn detail<const N: usize>(fields: [(&str, &str); N]) -> Map<String, Value> {
    let fields = fields.into_iter();
    fields
        .map(|(name, text)| (name.to_owned(), text.into()))
        .collect()
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let id = shared.ids.next();
        let refuse = |problem| Refused::new(problem, id);
        let Some(Peer(peer)) = parts.extensions.get() else {
            // Every connection sets it.
            return Err(refuse(Problem::log_unavailable()));
        };
        let route = parts.extensions.get::<&'static Route>().copied();
        let gate = route.map_or(Gate::None, |route| route.gate);
        if matches!(gate, Gate::Intake | Gate::Starts) {
            gate::intake(shared).map_err(refuse)?;
        }
        let key = auth::authenticate(shared, &parts.headers, *peer).await;
        let key = key.map_err(refuse)?;
        if matches!(gate, Gate::Takeover | Gate::Starts) {
            gate::starts(shared, &key).map_err(refuse)?;
        }
        let on_behalf_of = auth::on_behalf_of(&parts.headers).map_err(refuse)?;
        let permission = match route.map(|route| route.access) {
            Some(Access::Permission(permission)) => permission,
            // An open route needs no caller; if its handler takes one anyway, the route is closed.
            Some(Access::Open) | None => OPERATOR,
        };
        Ok(Self {
            shared: Arc::clone(shared),
            key,
            on_behalf_of: on_behalf_of.map(str::to_owned),
            route,
            permission,
            id,
            address: auth::client(&parts.headers, *peer, &shared.trusted_proxies),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
        })
    }
}

impl FromRequestParts<Arc<Shared>> for Permitted {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        Caller::from_request_parts(parts, shared).await?.permit()
    }
}

impl<C> FromRequest<Arc<Shared>> for Sent<C>
where
    C: FromRequestParts<Arc<Shared>, Rejection = Refused> + Send,
{
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Self::Rejection> {
        let (caller, body) = sent(BODY_BYTES, request, shared).await?;
        Ok(Self(caller, body))
    }
}

/// Checks the caller, then reads the body.
async fn sent<C>(
    most: usize,
    request: Request,
    shared: &Arc<Shared>,
) -> Result<(C, JsonBody), Refused>
where
    C: FromRequestParts<Arc<Shared>, Rejection = Refused>,
{
    let (mut parts, body) = request.into_parts();
    match C::from_request_parts(&mut parts, shared).await {
        Ok(caller) => {
            let body = JsonBody::read(shared, most, &parts.headers, body).await;
            Ok((caller, body))
        }
        Err(refused) => {
            body::discard(body);
            Err(refused)
        }
    }
}

impl<const BYTES: usize, C> FromRequest<Arc<Shared>> for SentUpTo<BYTES, C>
where
    C: FromRequestParts<Arc<Shared>, Rejection = Refused> + Send,
{
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Self::Rejection> {
        let (caller, body) = sent(BYTES, request, shared).await?;
        Ok(Self(caller, body))
    }
}

impl Caller {
    /// Checks the permission, then whether the caller may name the user on whose behalf it acts. A key with `operator` also administers
    /// and reads ([`is_operators`]).
    pub(crate) fn permit(self) -> Result<Permitted, Refused> {
        let operates = || self.is_operator() && is_operators(self.permission);
        if !self.key.scopes.permits(self.permission) && !operates() {
            return Err(self.refuse(Problem::lacks(self.permission)));
        }
        if self.on_behalf_of.is_some() && !self.may_act_as() {
            return Err(self.refuse(Problem::lacks(ACT_AS)));
        }
        Ok(Permitted(self))
    }

    fn may_act_as(&self) -> bool {
        self.key.scopes.permits(ACT_AS)
    }

    /// Creates an entry for the audit log: the principal, the user it acts for, the issuer, and the client.
    pub(crate) fn audit_entry(&self, tenant: &Tenant, action: &str, outcome: Outcome) -> Entry {
        self.entry(Some(tenant), action, outcome)
    }

    /// Creates an entry of a tenant, or of the whole installation.
    fn entry(&self, tenant: Option<&Tenant>, action: &str, outcome: Outcome) -> Entry {
        let agent = self.user_agent.as_ref().map(HeaderValue::as_bytes);
        let on_behalf_of = self.on_behalf_of.as_deref();
        let entry = Entry::new(tenant, action, outcome, self.shared.clock.now())
            .by(
                &self.key.principal,
                on_behalf_of.filter(|_| self.may_act_as()),
            )
            .client(self.address, agent);
        match &self.key.issuer {
            Some(issuer) => entry.detail(detail([("issuer", issuer)])),
            None => entry,
        }
    }

    /// Records a change such as `key.created`, and waits until the entry is durable.
    pub(crate) async fn audit_change(
        &self,
        tenant: &Tenant,
        action: &str,
        (kind, id): (&str, &str),
        detail: Map<String, Value>,
    ) {
        let entry = self.audit_entry(tenant, action, Outcome::Ok);
        let entry = entry.resource(kind, id).detail(detail);
        self.shared.audit.record_durably(entry).await;
    }

    /// Records a change of the whole installation, such as `topic.created`, and waits until the entry is durable.
    pub(crate) async fn audit_operation(
        &self,
        action: &str,
        (kind, id): (&str, &str),
        detail: Map<String, Value>,
    ) {
        let entry = self.entry(None, action, Outcome::Ok);
        let entry = entry.resource(kind, id).detail(detail);
        self.shared.audit.record_durably(entry).await;
    }

    /// Records that a person reads payloads, such as `letter.read`; reads by programs are not recorded. `tenant` is the owner of the
    /// payloads; `None` stands for all tenants.
    pub(crate) fn audit_read(
        &self,
        tenant: Option<&Tenant>,
        action: &str,
        (kind, id): (&str, &str),
        detail: Map<String, Value>,
    ) {
        if self.key.kind == KeyKind::Person {
            let entry = self.entry(tenant, action, Outcome::Ok);
            let entry = entry.resource(kind, id).detail(detail);
            self.shared.audit.record(entry);
        }
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.id
    }

    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.key.scopes.permits(OPERATOR)
    }

    /// Refuses the request; a refusal with 403 is recorded in the audit log.
    pub(crate) fn refuse(&self, problem: Problem) -> Refused {
        let code = problem.code();
        if code.status == StatusCode::FORBIDDEN.as_u16() {
            let route = self.route.map(|route| (route.method.name(), route.path));
            let (method, path) = route.unwrap_or_default();
            self.shared.audit_denied(&Denied {
                key: &self.key,
                on_behalf_of: self.on_behalf_of.as_deref(),
                route: &format!("{method} {path}"),
                permission: self.permission,
                code: code.code,
                client: (
                    self.address,
                    self.user_agent.as_ref().map(HeaderValue::as_bytes),
                ),
            });
        }
        Refused::new(problem, self.id)
    }

    /// Refuses with `invalid_payload`.
    pub(crate) fn invalid(&self, why: impl Display) -> Refused {
        self.refuse(Problem::invalid(format!("{why}")))
    }

    pub(crate) fn missing(&self, field: &str) -> Refused {
        self.refuse(Problem::missing(field))
    }

    pub(crate) fn not_found(&self, detail: &'static str) -> Refused {
        self.refuse(Problem::new(&NOT_FOUND, detail))
    }

    /// Parses the JSON body.
    pub(crate) fn body<T: DeserializeOwned>(&self, body: JsonBody) -> Result<T, Refused> {
        body.parse().map_err(|problem| self.refuse(problem))
    }

    /// Parses the query string.
    pub(crate) fn query<T>(&self, query: QueryString<T>) -> Result<T, Refused> {
        query.0.map_err(|problem| self.refuse(problem))
    }

    /// Refuses because a change of `controls` failed.
    pub(crate) fn unchanged(&self, error: &ControlsError) -> Refused {
        tracing::warn!(%error, "`controls` could not be changed");
        self.refuse(Problem::log_unavailable())
    }
}

/// Whether `operator` holds this permission, of any tenant: to administer, and to read. To start and control runs and to decide
/// takes permissions of their own.
fn is_operators(permission: &str) -> bool {
    [OPERATOR, ADMIN].contains(&permission)
        || permission.ends_with(":read")
        || permission.ends_with(":read:own")
}

impl Permitted {
    /// The requested tenant, which is the key's own unless an operator names another one.
    pub(crate) fn tenant(&self, named: Option<&str>) -> Result<Tenant, Refused> {
        let Some(named) = named.filter(|n| *n != self.key.tenant.as_str()) else {
            return Ok(self.key.tenant.clone());
        };
        self.name_other_tenant()?;
        Tenant::new(named).map_err(|e| self.invalid(format!("`tenant`: {e}")))
    }

    /// Checks that the caller may name a tenant other than its own.
    pub(crate) fn name_other_tenant(&self) -> Result<(), Refused> {
        if self.is_operator() {
            return Ok(());
        }
        Err(self.refuse(Problem::denied(
            "only a key with the permission `operator` names another tenant",
        )))
    }

    /// Runs blocking work away from the threads that serve requests.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, Refused> {
        let problem = match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => of_log(&error),
            // The task panicked, or the node is stopping.
            Err(_) => Problem::log_unavailable(),
        };
        Err(self.refuse(problem))
    }
}

impl Deref for Permitted {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

/// Converts an error of the log. Its text may name any topic, so only operators see it.
fn of_log(error: &LogError) -> Problem {
    match error {
        LogError::UnknownTopic(_) => Problem::new(&UNKNOWN_TOPIC, error.to_string()),
        LogError::PartitionCount { .. } | LogError::Grown { .. } => {
            Problem::new(&PARTITION_COUNT, error.to_string())
        }
        _ => {
            tracing::warn!(%error, "the log cannot be read for a request");
            Problem::new(&LOG_UNAVAILABLE, error.to_string()).retry_after(LOG_RETRY_AFTER_S)
        }
    }
}
