//! The routes of the local API, each with who may use it (daemon spec §9.2, §9.7).

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use claudemesh_protocol::ops::Family;

use super::{
    Api, admin, bell, broadcast, events, failure, gate, inbox, metrics, ops, outbox, peers,
    profile, send, sessions, state, system,
};

/// What distinguishes a route from others. Without a mark it is served over the Unix socket, to whoever may use that, in
/// the places of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Served over TCP, too: the surface of the SDKs (ecosystem spec §4.2).
    OverTcp,
    /// Says nothing about anybody, or is how a session becomes known or ends: a token that the daemon does not know does no
    /// harm. Anywhere else a session that the daemon has lost would do what only its member may.
    ForAnybody,
    /// No capability names it: the outbox holds what siblings and the member wrote, and sends it in their names; the daemon
    /// serves them all. Refused to sessions with a list of capabilities.
    ForThePerson,
    /// Served to hooks with a capability token, which is good for nothing else (daemon spec §16.4).
    ForHooks,
    /// Answered from places of its own, also when all others are taken (daemon spec §9.5).
    Reserved,
    /// Lasts until something happens: counted among the event streams instead of the requests in flight.
    Lasting,
}

/// A path as the router knows it, with its marks.
pub(super) struct Route {
    /// The template, such as `/v1/inbox/{id}`.
    pub(super) path: &'static str,
    marks: &'static [Mark],
    /// The family whose operation it is under another name; what goes by way of [`crate::ops::run`] is asked there.
    pub(super) family: Option<Family>,
}

impl Route {
    pub(super) fn has(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// The route of a template; `None` where the router found none.
    pub(super) fn of(path: Option<&str>) -> Option<&'static Self> {
        ROUTES.iter().find(|route| Some(route.path) == path)
    }
}

macro_rules! routes {
    (@family) => {
        None
    };
    (@family $family:ident) => {
        Some(Family::$family)
    };
    ($($path:literal [$($mark:ident)*] $(of $family:ident)? => $handlers:expr;)+) => {
        /// Every route.
        pub(super) const ROUTES: &[Route] =
            &[$(Route {
                path: $path,
                marks: &[$(Mark::$mark),*],
                family: routes!(@family $($family)?),
            },)+];

        pub(super) fn router(api: Arc<Api>) -> Router {
            Router::new()
                $(.route($path, $handlers))+
                .fallback(failure::not_found)
                .method_not_allowed_fallback(failure::method_not_allowed)
                .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), gate::gate))
                .with_state(api)
        }
    };
}

routes! {
    "/v1/version" [OverTcp ForAnybody Reserved] => get(system::version);
    "/v1/compat" [ForAnybody] => get(system::compat);
    "/v1/health" [OverTcp ForAnybody Reserved] => get(system::health);
    "/v1/metrics" [ForAnybody Reserved] => get(metrics::scrape);
    "/v1/events" [OverTcp] => get(events::stream);
    "/v1/sessions/register" [ForAnybody] => post(sessions::register);
    "/v1/sessions/me" [] => get(sessions::me).delete(sessions::deregister);
    "/v1/sessions" [] => get(sessions::list);
    "/v1/sessions/status" [Reserved] => post(sessions::status);
    "/v1/sessions/bell" [Lasting] => get(bell::bell);
    // The path names the session by its token.
    "/v1/sessions/{token}" [ForAnybody] => delete(sessions::deregister_token);
    "/v1/heartbeat" [] => post(sessions::heartbeat);
    "/v1/send" [OverTcp ForHooks] of Messaging => post(send::send);
    "/v1/broadcast" [OverTcp] of Messaging => post(broadcast::broadcast);
    "/v1/inbox" [OverTcp] of Messaging => get(inbox::list).delete(inbox::flush);
    "/v1/inbox/search" [OverTcp] of Messaging => get(inbox::search);
    "/v1/inbox/seen" [OverTcp] of Messaging => post(inbox::seen);
    "/v1/inbox/{id}" [OverTcp] of Messaging => delete(inbox::delete_one);
    "/v1/outbox" [ForThePerson] => get(outbox::list);
    "/v1/outbox/{id}" [OverTcp ForThePerson] => get(outbox::one);
    "/v1/outbox/requeue" [ForThePerson] => post(outbox::requeue);
    "/v1/outbox/drop" [ForThePerson] => post(outbox::drop_row);
    "/v1/outbox/prune" [ForThePerson] => post(outbox::prune);
    "/v1/peers" [OverTcp] => get(peers::peers);
    "/v1/profile" [OverTcp] of Profile => post(profile::profile);
    "/v1/state" [OverTcp] => get(state::read).post(state::write);
    "/v1/ops" [ForAnybody] => get(ops::list);
    "/v1/ops/{op}" [OverTcp] => post(ops::run);
    "/v1/admin/accept-host" [ForThePerson] => post(admin::accept_host);
    "/v1/admin/archive-cleanup" [ForThePerson] => post(admin::archive_cleanup);
    "/v1/admin/rotate-keypair" [ForThePerson] => post(admin::rotate_keypair);
    "/v1/admin/trust-broker" [ForThePerson] => post(admin::trust_broker);
    "/v1/admin/hooks-test" [ForThePerson] => post(admin::hooks_test);
    "/v1/admin/reload" [ForThePerson] => post(admin::reload);
    "/v1/admin/rotate-token" [ForThePerson] => post(admin::rotate_token);
    "/v1/admin/shutdown" [ForThePerson] => post(admin::shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_daemon_is_for_the_person_at_its_socket() {
        for route in ROUTES {
            if route.path.starts_with("/v1/admin/") {
                assert!(route.has(Mark::ForThePerson), "{}", route.path);
                assert!(
                    !route.has(Mark::OverTcp) && !route.has(Mark::ForAnybody),
                    "{}",
                    route.path
                );
            }
            assert!(!route.path.starts_with("/v1/sessions") || !route.has(Mark::OverTcp));
        }
    }

    #[test]
    fn a_path_without_a_route_has_no_marks() {
        assert!(Route::of(None).is_none());
        assert!(Route::of(Some("/v1/nothing")).is_none());
        assert_eq!(Route::of(Some("/v1/inbox/{id}")).unwrap().path, "/v1/inbox/{id}");
    }
}
