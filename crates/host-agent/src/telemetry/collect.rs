//! What the collectors in a guest found, asked for by whoever holds the owner's wishes. Must never wait long for a guest,
//! nor pass on what is out of bounds.

use crate::node::HostAgent;
use proteus_model::id::VmId;
use proteus_model::telemetry::{CollectIntent, Findings};
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::findings::{CollectPolicy, Collector};
use proteus_protocol::guest::v1::{ErrorCode, Reply, Request};
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};
use std::time::Duration;

/// Longest wait: an agent answers with what it has at hand.
const LIMIT: Duration = Duration::from_secs(5);

fn policy(intent: &CollectIntent) -> CollectPolicy {
    let mut off: Vec<Collector> = intent.off.iter().map(|name| Collector::from(*name)).collect();
    off.sort_unstable();
    off.dedup();
    CollectPolicy {
        off,
        users: intent.users,
        libraries: intent.libraries,
        endpoints: intent.endpoints.clone(),
        budget_permille: intent.budget.map(|budget| budget.0),
    }
}

impl HostAgent {
    /// See [`proteus_protocol::node::v1::Node::collect`].
    pub(crate) async fn collected(&self, vm: VmId, intent: &CollectIntent) -> Result<Findings, NodeError> {
        let failed = |message: String| NodeError::new(NodeErrorCode::Guest, message);
        let path = self.agent_path(vm).await?;
        if !self.guest(vm).is_known(&path).await {
            return Err(failed("no agent was heard in this guest".to_owned()));
        }
        let request = Request::Collect { policy: policy(intent) };
        match self.guest(vm).ask_within(&path, request, LIMIT).await {
            Ok(Reply::Findings { findings }) => {
                let found = Findings::try_from(*findings);
                let refused = found.as_ref().map_or(1, |found| found.refused.len());
                self.telemetry.refuse(vm, refused);
                found.map_err(|error| failed(chain(&error)))
            }
            Ok(_) => Err(failed("the agent answered something else than was asked".to_owned())),
            Err(crate::guest::GuestError::Refused { code: ErrorCode::Unsupported, .. }) => Err(
                NodeError::new(NodeErrorCode::Unsupported, "its agent is of before there were collectors"),
            ),
            Err(error) => Err(failed(chain(&error))),
        }
    }
}
