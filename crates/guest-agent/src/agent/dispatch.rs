//! What each request sets in motion. Quick ones are answered here; others are handed to the part that will answer.

use super::{Agent, MOUNT_PATIENCE, PendingMount, WAITING_MAX};
use crate::execution::{self, network_policy};
use crate::failure::Failure;
use crate::{identity, verification};
use proteus_protocol::guest::v1::request::{Capability, CapabilityName, GuestKind};
use proteus_protocol::guest::v1::{
    Blob, ErrorCode, HelloReply, HelloRequest, HostMessage, Knob, LinkIdentity, PROTOCOL_VERSION, Reply,
    Request, Setting,
};
use std::path::Path;
use std::time::Instant;

/// `None`: somebody else will answer later.
type Answer = Result<Option<Reply>, Failure>;

impl Agent {
    /// Takes a request.
    pub(super) fn dispatch(&mut self, message: HostMessage, now: Instant) {
        let HostMessage { id, request } = message;
        match self.handle(id, request, now) {
            Ok(None) => {}
            Ok(Some(reply)) => self.outbox.reply(id, reply),
            Err(failure) => self.outbox.answer(id, Err(failure)),
        }
    }

    fn handle(&mut self, id: u64, request: Request, now: Instant) -> Answer {
        if self.mounts.len() + self.jobs.len() >= WAITING_MAX {
            return Err(Failure::busy(format!("{WAITING_MAX} requests wait already")));
        }
        match request {
            Request::Hello { hello } => self.greet(&hello),
            Request::Ping => Ok(Some(Reply::Pong { uptime_ms: self.sampler.uptime_ms().unwrap_or(0) })),
            Request::Sample => Ok(Some(Reply::Sample { sample: Box::new(self.sampler.sample()) })),
            Request::Collect { policy } => {
                let findings = Box::new(self.collectors.ask(policy, self.services.logs_counted(), now));
                Ok(Some(Reply::Findings { findings }))
            }
            Request::ReadSetting { knob } => self.read_setting(id, &knob, now),
            Request::ApplySetting { setting } => self.apply_setting(id, setting, now),
            Request::MountImage { serial, name } => self.mount_image(id, serial, name, now),
            Request::UnmountImage { name } => self.unmount_image(&name),
            Request::StartService { name, image, data_serial } => {
                self.require_pid1("run services")?;
                let what = (id, name.as_str(), image.as_str());
                self.services.start(what, data_serial, &self.images, now, &mut self.outbox).map(|()| None)
            }
            Request::StopService { name } => {
                self.services.stop(id, &name, now, &mut self.outbox).map(|()| None)
            }
            Request::ReloadService { name, mode } if self.kind == GuestKind::Systemd => {
                self.reload_unit(id, &name, &mode, now).map(|()| None)
            }
            Request::ReloadService { name, mode } => {
                self.services.reload((id, &name), mode, &self.images, now, &mut self.outbox).map(|()| None)
            }
            Request::ServiceStatus { name } => {
                Ok(Some(Reply::Service { status: self.services.status(&name)? }))
            }
            Request::Services => Ok(Some(Reply::Services { services: self.services.statuses() })),
            Request::ProcessState { name } => {
                Ok(Some(Reply::Process { process: verification::process_state(&name) }))
            }
            Request::UnitState { unit } => self.ask_unit(id, &unit, now).map(|()| None),
            Request::Exec { exec } => self.exec(id, exec, now).map(|()| None),
            Request::SetNetwork { network } => {
                self.require_pid1("set the network")?;
                identity::set_network(&network).map(|()| Some(Reply::Done))
            }
            Request::Shutdown { shutdown } => {
                self.end(shutdown, now);
                Ok(Some(Reply::Done))
            }
            Request::SetIdentity { entropy, hostname, machine_id, now_ms, link } => {
                let names = (hostname.as_deref(), machine_id.as_deref());
                self.set_identity(&entropy, names, now_ms, link.as_ref())
            }
            Request::Unknown => Err(Failure::unsupported("this agent does not know that request")),
        }
    }

    fn require_pid1(&self, what: &str) -> Result<(), Failure> {
        let allowed = self.kind == GuestKind::Pid1;
        let message =
            || format!("the agent can {what} only as the first process; here the guest's own init does");
        allowed.then_some(()).ok_or_else(|| Failure::unsupported(message()))
    }

    fn greet(&mut self, hello: &HelloRequest) -> Answer {
        if hello.protocol == 0 {
            return Err(Failure::new(ErrorCode::Invalid, "protocol 0 is refused: expected at least 1"));
        }
        Ok(Some(Reply::Hello { hello: self.hello(Some(hello.protocol)) }))
    }

    /// Who the agent is, to a host that speaks at most `protocol`.
    pub(super) fn hello(&self, protocol: Option<u32>) -> HelloReply {
        HelloReply {
            protocol: protocol.map_or(PROTOCOL_VERSION, |theirs| theirs.min(PROTOCOL_VERSION)),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            instance: self.instance.clone(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            hostname: identity::hostname(),
            guest: self.kind,
            capabilities: self.capabilities(),
        }
    }

    fn capabilities(&self) -> Vec<Capability> {
        let there = |path: &str| (!Path::new(path).exists()).then(|| format!("{path} is not in this guest"));
        let pid1 = |what: &str| self.require_pid1(what).err().map(|failure| failure.message);
        let units = (self.kind != GuestKind::Systemd).then(|| "this guest does not run systemd".to_owned());
        let pressure = (!self.sampler.has_pressure()).then(|| "boot the guest with psi=1".to_owned());
        [
            (CapabilityName::Vcpus, there("/sys/devices/system/cpu/online")),
            (CapabilityName::Sysctl, there("/proc/sys/vm")),
            (CapabilityName::Thp, there("/sys/kernel/mm/transparent_hugepage/enabled")),
            (CapabilityName::Priority, None),
            (CapabilityName::CgroupWeight, there("/sys/fs/cgroup/cgroup.controllers")),
            (CapabilityName::NetworkPolicy, network_policy::missing()),
            (CapabilityName::Pressure, pressure),
            (CapabilityName::Images, None),
            (CapabilityName::Services, pid1("run services")),
            (CapabilityName::Units, units),
            (CapabilityName::Network, pid1("set the network")),
        ]
        .map(|(name, missing)| Capability { name, missing })
        .to_vec()
    }

    fn read_setting(&mut self, id: u64, knob: &Knob, now: Instant) -> Answer {
        if let Knob::NetworkPolicy { application } = knob {
            knob.validate().map_err(|e| Failure::invalid(&e))?;
            self.jobs.read_policy(id, application.clone(), now)?;
            return Ok(None);
        }
        execution::read(knob).map(|setting| Some(Reply::Setting { setting }))
    }

    fn apply_setting(&mut self, id: u64, setting: Setting, now: Instant) -> Answer {
        if let Setting::NetworkPolicy { application, policy } = setting {
            let setting = Setting::NetworkPolicy { application: application.clone(), policy: policy.clone() };
            setting.validate().map_err(|e| Failure::invalid(&e))?;
            self.jobs.apply_policy(id, application, policy, now)?;
            return Ok(None);
        }
        execution::apply(&setting).map(|setting| Some(Reply::Setting { setting }))
    }

    fn mount_image(&mut self, id: u64, serial: String, name: String, now: Instant) -> Answer {
        match self.images.ensure_mounted(&serial, &name) {
            Err(failure) if failure.code == ErrorCode::NotFound => {
                self.mounts.push(PendingMount { id, serial, name, deadline: now + MOUNT_PATIENCE });
                Ok(None)
            }
            result => result.map(|image| Some(Reply::Image { image })),
        }
    }

    fn unmount_image(&mut self, name: &str) -> Answer {
        if self.services.uses_image(name) {
            return Err(Failure::busy(format!("a service runs from image {name}; stop it first")));
        }
        self.images.ensure_unmounted(name).map(|()| Some(Reply::Done))
    }

    fn set_identity(
        &mut self,
        entropy: &Blob,
        (hostname, machine_id): (Option<&str>, Option<&str>),
        now_ms: Option<u64>,
        link: Option<&LinkIdentity>,
    ) -> Answer {
        identity::add_entropy(entropy)?;
        self.instance = identity::new_instance();
        if let Some(now_ms) = now_ms {
            identity::set_clock(now_ms)?;
        }
        if let Some(name) = hostname {
            identity::set_hostname(name)?;
            identity::keep_hostname(name)?;
        }
        if let Some(id) = machine_id {
            identity::set_machine_id(id)?;
        }
        self.collectors.begin_anew();
        identity::forget_secrets()?;
        if let Some(link) = link {
            identity::set_link(link, self.kind == GuestKind::Pid1)?;
        }
        Ok(Some(Reply::Hello { hello: self.hello(None) }))
    }
}
