//! The real coding agents with the real binary, offline: what stands in the requests to the model is what the model was
//! shown (agents spec §1.10, §2). `make test-agents` runs these; without the agents they say what they skip.

mod bell;
mod claude;
mod codex;
mod evidence;
mod hooks;
mod install;
mod rig;
