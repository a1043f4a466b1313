//! Lists that go on: the next page is named in the answer, and for clients that follow links in its head (daemon spec §9.5).

use axum::Json;
use axum::response::{IntoResponse, Response};
use claudemesh_ipc::api::inbox::SearchPage;
use claudemesh_ipc::api::{InboxPage, OutboxPage};
use hyper::Uri;
use hyper::header::{HeaderValue, LINK};
use serde::Serialize;

/// A page of a list.
pub(super) trait Page: Serialize {
    /// Where the next one begins; `None` after the last one.
    fn next_cursor(&self) -> Option<&str>;
}

impl Page for InboxPage {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

impl Page for SearchPage {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

impl Page for OutboxPage {
    fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }
}

/// The answer to `uri`, with a link to the next page when there is one.
pub(super) fn answer(uri: &Uri, page: &impl Page) -> Response {
    let link = page.next_cursor().and_then(|cursor| next(uri, cursor));
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// The same question, from `cursor` on. Cursors consist of characters that mean nothing in a query.
fn next(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let query = uri.query().unwrap_or_default();
    let is_kept = |pair: &&str| !pair.is_empty() && pair.split('=').next() != Some("cursor");
    let mut pairs: Vec<&str> = query.split('&').filter(is_kept).collect();
    let cursor = format!("cursor={cursor}");
    pairs.push(&cursor);
    let text = format!("<{}?{}>; rel=\"next\"", uri.path(), pairs.join("&"));
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_repeats_the_question_with_another_cursor() {
        for (asked, link) in [
            ("/v1/inbox", "</v1/inbox?cursor=c>; rel=\"next\""),
            ("/v1/inbox?limit=2&cursor=b", "</v1/inbox?limit=2&cursor=c>; rel=\"next\""),
            (
                "/v1/inbox/search?q=a%20b&limit=1",
                "</v1/inbox/search?q=a%20b&limit=1&cursor=c>; rel=\"next\"",
            ),
        ] {
            assert_eq!(next(&Uri::from_static(asked), "c").unwrap(), link);
        }
    }
}
