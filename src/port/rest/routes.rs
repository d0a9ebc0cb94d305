//! The router, made from the table of routes.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Router,
    extract::{MatchedPath, State},
    handler::Handler,
    http::{Method, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, any, on},
};

use super::{
    audit, claims, controls, docs, feedback, integrations, keys, letters, node, plans, readers,
    rebuild, replay, run_events, runs, schemas, tasks, tool_states, tools,
};
use crate::{
    api::{
        self, Operation, Route,
        problem::{METHOD_NOT_ALLOWED, NOT_FOUND},
    },
    port::{
        Shared, control,
        problem::{Problem, Refused},
        starts::{agent, post},
    },
};

type Routes = MethodRouter<Arc<Shared>>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut paths: BTreeMap<&str, Routes> = BTreeMap::new();
    for operation in Operation::ALL {
        let Some(route) = mount(*operation) else {
            continue;
        };
        let path = paths.entry(operation.route().path).or_default();
        *path = std::mem::take(path).merge(route);
    }
    let mut router = Router::new();
    for operation in [
        Operation::PostEvents,
        Operation::PostWebhook,
        Operation::PostHook,
    ] {
        // The router only calls this for other methods.
        router = router.route(operation.route().path, any(only_post));
    }
    for (path, routes) in paths {
        router = router.route(path, routes.fallback(not_allowed));
    }
    router
        .merge(schemas::router())
        .fallback(not_found)
        .with_state(shared)
}

/// The handler of a route; `None` if something other than this router serves it.
fn mount(operation: Operation) -> Option<Routes> {
    let route = operation.route();
    Some(match operation {
        Operation::PostCommands => handler(route, post::commands),
        Operation::PostWorkflows => handler(route, post::workflows),
        Operation::PostGoals => handler(route, post::goals),
        Operation::PostTasks => handler(route, post::tasks),
        Operation::ClaimTasks => handler(route, claims::claim),
        Operation::ExtendLease => handler(route, claims::extend),
        Operation::CompleteTask => handler(route, tasks::complete),
        Operation::ListTools => handler(route, tool_states::list),
        Operation::AgentWorkflow => handler(route, agent::workflow),
        Operation::AgentStatus => handler(route, agent::status),
        Operation::AgentGoal => handler(route, agent::goal),
        Operation::ListRuns => handler(route, runs::list),
        Operation::ShowRun => handler(route, runs::show),
        Operation::ShowRunEvents => handler(route, run_events::events),
        Operation::ListApprovals => handler(route, runs::approvals),
        Operation::CancelRun => handler(route, control::runs::cancel),
        Operation::PauseRun => handler(route, control::runs::pause),
        Operation::ResumeRun => handler(route, control::runs::resume),
        Operation::ControlRuns => handler(route, control::batch::control),
        Operation::RetryRun => handler(route, control::retry::retry),
        Operation::SignalRun => handler(route, control::runs::signal),
        Operation::DecideApproval => handler(route, control::decide::decide),
        Operation::FeedbackRun => handler(route, feedback::give),
        Operation::ListPlans => handler(route, plans::list),
        Operation::ShowPlan => handler(route, plans::show),
        Operation::ForgetPlan => handler(route, plans::forget),
        Operation::ExplainPlan => handler(route, plans::explain),
        Operation::CreateKey => handler(route, keys::create),
        Operation::ListKeys => handler(route, keys::list),
        Operation::RotateKey => handler(route, keys::rotate),
        Operation::ChangeKey => handler(route, keys::change),
        Operation::RevokeKey => handler(route, keys::revoke),
        Operation::CreateIntegration => handler(route, integrations::create),
        Operation::ListIntegrations => handler(route, integrations::list),
        Operation::RotateIntegration => handler(route, integrations::rotate),
        Operation::DeleteIntegration => handler(route, integrations::delete),
        Operation::GrantReader => handler(route, readers::grant),
        Operation::ListReaders => handler(route, readers::list),
        Operation::RevokeReader => handler(route, readers::revoke),
        Operation::ShowControls => handler(route, controls::show),
        Operation::ChangeControls => handler(route, controls::change),
        Operation::ListAudit => handler(route, audit::entries),
        Operation::ListRejections => handler(route, audit::rejections),
        Operation::Replay => handler(route, replay::events),
        Operation::ReplayState => handler(route, replay::state),
        Operation::ReplayIntoTopic => handler(route, replay::into_topic),
        Operation::ListLetters => handler(route, letters::list),
        Operation::ShowLetter => handler(route, letters::show),
        Operation::RedriveLetters => handler(route, letters::redrive),
        Operation::Lag => handler(route, tools::lag),
        Operation::ListTopics => handler(route, tools::topics),
        Operation::CreateTopics => handler(route, tools::create_topics),
        Operation::StartRebuild => handler(route, rebuild::begin),
        Operation::ShowRebuild => handler(route, rebuild::status),
        // Hyper handles these before the router sees them (`port/serve.rs`).
        Operation::PostEvents
        | Operation::PostWebhook
        | Operation::PostHook
        // The registry has its own errors for everything below its roots, so it has one handler for all of them (`schemas`).
        | Operation::Registry
        | Operation::RegistrySchemas
        | Operation::RegistryTypes
        | Operation::RegistrySchema
        | Operation::RegistrySchemaText
        | Operation::RegistrySchemaSubjects
        | Operation::RegistrySchemaVersions
        | Operation::RegistrySubjects
        | Operation::RegistryVersions
        | Operation::RegistryVersion
        | Operation::RegistryVersionText
        | Operation::RegistryVersionUses
        | Operation::RegistryLookUp
        | Operation::RegistryRegister
        | Operation::RegistryCompareAll
        | Operation::RegistryCompare
        | Operation::RegistryConfig
        | Operation::RegistrySubjectConfig
        | Operation::RegistryMode
        | Operation::RegistrySubjectMode
        | Operation::RegistryContexts => return None,
        Operation::Health => handler(route, node::health),
        Operation::Ready => handler(route, node::ready),
        Operation::Metrics => handler(route, node::metrics),
        Operation::OpenApi => handler(route, docs::openapi),
        Operation::Docs => handler(route, docs::page),
        Operation::DocsScript => handler(route, docs::script),
        Operation::DocsStyle => handler(route, docs::style),
    })
}

/// The handler under the route's method, with the route's line in the table for the extractors of `caller`.
fn handler<T: 'static>(route: &'static Route, handler: impl Handler<T, Arc<Shared>>) -> Routes {
    let method = match route.method {
        api::Method::Get => MethodFilter::GET,
        api::Method::Post => MethodFilter::POST,
        api::Method::Patch => MethodFilter::PATCH,
        api::Method::Delete => MethodFilter::DELETE,
    };
    on(method, handler).route_layer(Extension(route))
}

/// The path is not repeated: it may contain the token of a webhook.
async fn not_found(State(shared): State<Arc<Shared>>) -> Refused {
    let detail = "there is nothing at this path";
    Refused::new(Problem::new(&NOT_FOUND, detail), shared.ids.next())
}

async fn not_allowed(
    State(shared): State<Arc<Shared>>,
    method: Method,
    path: MatchedPath,
) -> Refused {
    let detail = format!("{} does not support {method}", path.as_str());
    Refused::new(Problem::new(&METHOD_NOT_ALLOWED, detail), shared.ids.next())
}

async fn only_post(
    State(shared): State<Arc<Shared>>,
    method: Method,
    path: MatchedPath,
) -> Response {
    let mut response = not_allowed(State(shared), method, path)
        .await
        .into_response();
    let allow = header::HeaderValue::from_static("POST");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
