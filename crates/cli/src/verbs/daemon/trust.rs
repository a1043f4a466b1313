//! `daemon trust-broker`: a broker that signs with another key than before (CLI spec §3.18, daemon spec §17.4).

use claudemesh_ipc::api::identity::TrustBrokerRequest;
use claudemesh_protocol::error::ErrorCode;
use serde_json::json;

use super::running;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::prompt::Default as Answer;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["mesh", "old_prefix", "new_prefix"], id: "mesh" };

/// Runs the verb: both keys are shown, and the person compares the new one with what the operator says.
///
/// # Errors
/// Exit 1 when the person says no; exit 3 without `--mesh`; exit 4 without a daemon; exit 5 when the key is the known one.
pub(crate) async fn run(context: &Context) -> Outcome<Report> {
    let Some(mesh) = context.global.mesh.clone() else {
        return Err(Failure::new(ErrorCode::MeshRequired, "which mesh?")
            .action("claudemesh daemon trust-broker --mesh <slug>"));
    };
    let client = running(context).await?;
    let look = TrustBrokerRequest { mesh, trust: None };
    let seen = client.trust_broker(&look).await.map_err(link::failure)?;
    let mut screen = Screen::new();
    screen.attention(format!("the broker of {} signs with another key", seen.mesh));
    screen.pairs(&[("known", seen.old_prefix.clone()), ("now", seen.new_prefix.clone())]);
    context.out.aside(&screen);
    let question = "compare the new key with what the operator of the broker says. Trust it?";
    context.consent(question, Answer::No)?;
    let trust = TrustBrokerRequest { trust: Some(seen.broker_pubkey), ..look };
    let trusted = client.trust_broker(&trust).await.map_err(link::failure)?;
    let mut screen = Screen::new();
    screen.done(format!("broker key trusted for {}", trusted.mesh));
    let document = json!({
        "mesh": trusted.mesh, "old_prefix": trusted.old_prefix, "new_prefix": trusted.new_prefix,
    });
    Ok(Report::new(Document::object(document), screen))
}
