//! Requests that take time: at most [`MCP_CALLS_MAX`] run at once, each can be cancelled by its id, and what lasts tells
//! how long it has been at work (MCP spec §3).

use std::collections::HashMap;
use std::sync::Arc;

use claudemesh_protocol::limits::{MCP_CALLS_MAX, MCP_CALLS_WAITING_MAX, MCP_PROGRESS_EVERY};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::stdio::Output;
use crate::tools::{Call, Failure, Outcome, Revision, Runner, busy};
use crate::{completion, resource, rpc};

/// A request whose answer is not known at once.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its id.
    pub id: Value,
    /// What it asks for.
    pub work: Work,
    /// Where it wants to hear of its progress.
    pub progress_token: Option<Value>,
    /// The agreed revision.
    pub revision: Revision,
    /// Whether the client can ask a person.
    pub can_ask: bool,
}

/// What a job asks for.
#[derive(Debug)]
pub(crate) enum Work {
    /// A tool call.
    Call(Call),
    /// Proposals for an argument.
    Complete(Map<String, Value>),
    /// The text of the resource, by this call.
    Read(Call),
}

/// The jobs of one server.
pub(crate) struct Jobs {
    runner: Arc<Runner>,
    output: Output,
    places: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Takes a job off the list, however it ends.
struct Entry {
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    key: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

impl Jobs {
    /// No job yet; tasks are spawned on `tasks` and end with `stop`.
    pub(crate) fn new(
        runner: Runner,
        output: Output,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            runner: Arc::new(runner),
            output,
            places: Arc::new(Semaphore::new(MCP_CALLS_MAX)),
            running: Arc::default(),
            tasks,
            stop,
        }
    }

    /// Begins a job; the reply is returned at once when it cannot begin.
    pub(crate) fn begin(&self, job: Job) -> Option<Value> {
        let key = job.id.to_string();
        let cancelled = self.stop.child_token();
        {
            let mut running = self.running.lock();
            if running.contains_key(&key) {
                let message = "a request with this id is still running";
                return Some(rpc::Fault::new(job.id, rpc::INVALID_REQUEST, message).reply());
            }
            if running.len() >= MCP_CALLS_MAX + MCP_CALLS_WAITING_MAX {
                return Some(match &job.work {
                    Work::Call(_) => rpc::result(&job.id, &busy(job.revision)),
                    Work::Complete(_) => rpc::result(&job.id, &completion::none()),
                    Work::Read(_) => unread_fault(job.id, &Failure::busy()),
                });
            }
            running.insert(key.clone(), cancelled.clone());
        }
        let entry = Entry { running: Arc::clone(&self.running), key };
        let (runner, output, places) =
            (Arc::clone(&self.runner), self.output.clone(), Arc::clone(&self.places));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let work = Box::pin(run(job, &runner, &output, &places, &cancelled));
            let reply = stop.run_until_cancelled(work).await.flatten();
            // Its id is free again before the client knows that.
            drop(entry);
            if let Some(reply) = reply {
                // A client that is gone ends the server elsewhere.
                let _ = output.write(&reply).await;
            }
        });
        None
    }

    /// `notifications/cancelled`: stops the job of this id, when it is still running.
    pub(crate) fn cancel(&self, id: &Value) {
        if let Some(cancelled) = self.running.lock().get(&id.to_string()) {
            cancelled.cancel();
        }
    }

    /// An answer to a question of ours.
    pub(crate) fn answer(&self, id: &Value, result: Option<Value>) {
        self.runner.questions.answer(id, result);
    }
}

async fn run(
    job: Job,
    runner: &Runner,
    output: &Output,
    places: &Semaphore,
    cancelled: &CancellationToken,
) -> Option<Value> {
    let work = async {
        let _place = cancelled.run_until_cancelled(places.acquire()).await?;
        match &job.work {
            Work::Call(call) => {
                let outcome = runner.run(call, job.can_ask, cancelled).await?;
                runner.tally.count(&outcome);
                Some(Ok(outcome.to_result(call, job.revision, &runner.text)))
            }
            Work::Complete(params) => {
                let proposals = completion::complete(params, &runner.road);
                cancelled.run_until_cancelled(proposals).await.map(Ok)
            }
            Work::Read(call) => Some(match runner.run(call, job.can_ask, cancelled).await? {
                Outcome::Done(messages) => Ok(resource::contents(&messages)),
                Outcome::Failed(failure) => Err(failure),
            }),
        }
    };
    let result = match &job.progress_token {
        Some(token) => Box::pin(with_progress(work, token, output)).await,
        None => Box::pin(work).await,
    };
    result.map(|result| match result {
        Ok(result) => rpc::result(&job.id, &result),
        Err(failure) => unread_fault(job.id.clone(), &failure),
    })
}

/// A resource that cannot be read has no result: its reader gets an error of the protocol.
fn unread_fault(id: Value, failure: &Failure) -> Value {
    rpc::Fault::new(id, rpc::INTERNAL_ERROR, failure.text()).reply()
}

/// Runs `work` and tells its seconds every [`MCP_PROGRESS_EVERY`].
async fn with_progress<T>(work: impl Future<Output = T>, token: &Value, output: &Output) -> T {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let mut ticks = interval_at(began + MCP_PROGRESS_EVERY, MCP_PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = ticks.tick() => {
                let seconds = began.elapsed().as_secs();
                let params = json!({
                    "progressToken": token,
                    "progress": seconds,
                    "message": format!("still running after {seconds} s"),
                });
                // A client that is gone ends the server elsewhere.
                let _ = output.write(&rpc::notification_with("notifications/progress", &params)).await;
            }
        }
    }
}
