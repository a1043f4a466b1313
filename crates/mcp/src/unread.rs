//! What is unread in the inbox, without marking it (MCP spec §4.1, §4.8).

use claudemesh_ipc::api::{InboxPage, InboxQuery, RecipientKind};
use claudemesh_ipc::{Client, IpcError};
use claudemesh_protocol::limits::CHANNEL_CATCH_UP_ROWS;

/// The newest unread rows, newest first, at most [`CHANNEL_CATCH_UP_ROWS`]. Without a session those of the member only:
/// rows addressed to a session are that session's to tell.
///
/// # Errors
/// The daemon's, or the road to it.
pub(crate) async fn page(client: &Client, mesh: Option<&str>) -> Result<InboxPage, IpcError> {
    let query = InboxQuery {
        mesh: mesh.map(str::to_owned),
        unread_only: Some(true),
        mark_seen: Some(false),
        limit: u32::try_from(CHANNEL_CATCH_UP_ROWS).ok(),
        ..InboxQuery::default()
    };
    let mut page = client.inbox(&query).await?;
    if client.token().is_none() {
        page.items.retain(|item| item.recipient_kind != Some(RecipientKind::Session));
    }
    Ok(page)
}
