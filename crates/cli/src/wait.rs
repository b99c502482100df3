//! Waits until a VM serves: its agent answers, and of its services those that its owner asked for serve. Must never
//! wait for what cannot come any more: a service that failed, a VM that ended.

use crate::client::{Client, segment};
use crate::error::CommandError;
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{ServiceView, VmView};
use std::time::{Duration, Instant};

/// First pause between two looks, where Proteus itself has nothing to wait for. Each next is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest of them.
const PAUSE_LIMIT: Duration = Duration::from_millis(200);

/// How a VM is on its way to serve.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Serves,
    /// What is to be seen so far.
    NotYet(String),
    /// Why it never will, if nobody does anything.
    Failed {
        what: String,
        because: Vec<String>,
    },
}

/// `services`: as they are; `None`: nobody inside tells.
fn judge(view: &VmView, services: Option<&[ServiceView]>) -> Progress {
    if view.power == PowerState::Stopped {
        return Progress::Failed { what: format!("{} has ended", view.name), because: Vec::new() };
    }
    let wanted = &view.intent.services;
    let silent = || Progress::NotYet("its agent does not answer".to_owned());
    let Some(services) = services else {
        return if wanted.is_empty() && view.agent.is_some() { Progress::Serves } else { silent() };
    };
    let asked_for: Vec<_> =
        services.iter().filter(|s| wanted.iter().any(|name| name.as_str() == s.name)).collect();
    let failed: Vec<_> = asked_for.iter().filter(|service| service.state == "failed").collect();
    if !failed.is_empty() {
        let names: Vec<&str> = failed.iter().map(|service| service.name.as_str()).collect();
        let told = |service: &&&ServiceView| {
            service.notes.iter().map(|note| format!("{}: {note}", service.name)).collect::<Vec<_>>()
        };
        return Progress::Failed {
            what: format!("{} does not serve: {} failed", view.name, names.join(", ")),
            because: failed.iter().flat_map(told).collect(),
        };
    }
    if asked_for.iter().filter(|service| service.serving).count() == wanted.len() {
        return Progress::Serves;
    }
    let states: Vec<String> = asked_for.iter().map(|s| format!("{} {}", s.name, s.state)).collect();
    if states.is_empty() { silent() } else { Progress::NotYet(format!("services: {}", states.join(", "))) }
}

/// Waits until the agent of a VM that was started answers and the services that were asked for serve. `view`: the VM as
/// the answer to its start shows it; what comes back is how it is when it serves.
pub async fn wait_serving(
    client: &Client,
    mut view: VmView,
    limit: Duration,
) -> Result<VmView, CommandError> {
    let vm = view.name.clone();
    let path = format!("/vms/{}", segment(vm.as_str()));
    let hint =
        || format!("`proteus vm console {vm} --dump` shows its console, `proteus vm show {vm}` its services");
    let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let services: Option<Vec<ServiceView>> = match view.intent.services.is_empty() {
            true => None,
            // Answered as soon as all were started, or one failed. Refused where nobody inside answers.
            false => client.get(&format!("{path}/services?wait_ms={}", left.as_millis())).await.ok(),
        };
        let seen = match judge(&view, services.as_deref()) {
            // Not asked for again where it is known: a look at one VM takes a sample of its guest.
            Progress::Serves if view.agent.is_some() => return Ok(view),
            Progress::Serves => return Ok(client.get(&path).await?),
            Progress::Failed { what, because } => {
                return Err(CommandError::Failed { what, because, hint: hint() });
            }
            Progress::NotYet(seen) => seen,
        };
        if start.elapsed() >= limit {
            let what = format!("{vm} does not serve yet; {seen}");
            return Err(CommandError::TimedOut { what, hint: hint() });
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_LIMIT.min(pause * 2);
        view = client.get(&path).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::id::VmId;
    use proteus_model::unit::Bytes;
    use proteus_model::vm::{Boot, VmIntent};
    use serde_json::json;

    fn vm(services: &[&str], power: &str, agent: Option<&str>) -> VmView {
        let mut intent = VmIntent::new("web".parse().expect("a name"), Boot::Firmware, Bytes::mib(256));
        intent.services = services.iter().map(|name| name.parse().expect("a name")).collect();
        serde_json::from_value(json!({
            "id": VmId::from_bits(1), "name": "web", "power": power, "version": 0, "agent": agent,
            "disarmed": false, "intent": intent, "managed": [],
        }))
        .expect("a VM as Proteus shows it")
    }

    fn service(name: &str, state: &str, notes: &[&str]) -> ServiceView {
        let notes = notes.iter().map(|note| (*note).to_owned()).collect();
        ServiceView { name: name.into(), state: state.into(), serving: state == "ready", notes }
    }

    #[test]
    fn it_serves_when_all_that_was_asked_for_serves() {
        let web = vm(&["nginx", "redis"], "running", Some("1"));
        let (nginx, redis) = (service("nginx", "ready", &[]), service("redis", "starting", &[]));
        let not_yet = |text: &str| Progress::NotYet(text.to_owned());
        assert_eq!(judge(&web, None), not_yet("its agent does not answer"));
        assert_eq!(judge(&web, Some(&[])), not_yet("its agent does not answer"));
        let some = judge(&web, Some(&[nginx.clone(), redis]));
        assert_eq!(some, not_yet("services: nginx ready, redis starting"));
        // One that is not there yet is no reason to stop waiting either.
        assert_eq!(judge(&web, Some(std::slice::from_ref(&nginx))), not_yet("services: nginx ready"));
        assert_eq!(judge(&web, Some(&[nginx, service("redis", "ready", &[])])), Progress::Serves);
    }

    #[test]
    fn a_service_that_failed_ends_the_waiting_with_its_reason() {
        let web = vm(&["nginx", "redis"], "running", None);
        let starting = service("nginx", "starting", &[]);
        let failed = service("redis", "failed", &["not started: no such image"]);
        let seen = judge(&web, Some(&[starting, failed]));
        let what = "web does not serve: redis failed".to_owned();
        assert_eq!(
            seen,
            Progress::Failed { what, because: vec!["redis: not started: no such image".into()] }
        );
    }

    #[test]
    fn services_that_nobody_asked_for_are_not_waited_for() {
        let other = [service("other", "failed", &[]), service("second", "starting", &[])];
        assert_eq!(judge(&vm(&[], "running", Some("1")), Some(&other)), Progress::Serves);
        assert_eq!(judge(&vm(&[], "running", Some("1")), None), Progress::Serves);
        let [failed, starting] = other;
        let seen = [failed, service("nginx", "ready", &[]), starting];
        assert_eq!(judge(&vm(&["nginx"], "running", Some("1")), Some(&seen)), Progress::Serves);
    }

    #[test]
    fn a_vm_that_ended_is_not_waited_for() {
        let seen = judge(&vm(&["nginx"], "stopped", None), None);
        assert_eq!(seen, Progress::Failed { what: "web has ended".into(), because: vec![] });
    }
}
