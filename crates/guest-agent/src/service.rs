//! Services from images: started when prepared, ready when they answer, started again when they crash, upgraded
//! without losing a connection where the agent owns the sockets. Must never let the old generation go before the
//! new one was checked (guest.md, finding 2).
//!
//! The states are in [`ServiceState`]; [`machine`] moves between them.

mod generation;

mod machine;

mod probe;

mod root;

use crate::execution::application::{SERVICES, cgroup_dir};
use crate::failure::Failure;
use crate::image::Images;
use crate::outbox::Outbox;
use crate::task::{Task, TaskSpec};
use machine::Service;
use proteus_protocol::guest::v1::request::ReloadMode;
use proteus_protocol::guest::v1::service::ServiceState;
use proteus_protocol::guest::v1::{ErrorCode, ServiceManifest, ServiceStatus};
use rustix::event::PollFd;
use std::collections::BTreeMap;
use std::time::Instant;

/// Most services at a time.
const SERVICES_MAX: usize = 16;

/// All services.
#[derive(Default)]
pub struct Services {
    by_name: BTreeMap<String, Service>,
}

fn manifest_of<'a>(images: &'a Images, image: &str, name: &str) -> Result<&'a ServiceManifest, Failure> {
    let manifest = images.get(image)?.manifest.as_ref();
    let manifest = manifest.ok_or_else(|| Failure::not_found(format!("a service in image {image}")))?;
    if manifest.name == name {
        return Ok(manifest);
    }
    let message = format!("image {image} holds service {}, not {name}", manifest.name);
    Err(Failure::new(ErrorCode::Invalid, message))
}

impl Services {
    /// Starts a service; the answer comes when it is ready.
    pub fn start(
        &mut self,
        (id, name, image): (u64, &str, &str),
        data_serial: Option<String>,
        images: &Images,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let manifest = manifest_of(images, image, name)?;
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= SERVICES_MAX {
                return Err(Failure::unsupported(format!("at most {SERVICES_MAX} services can be known")));
            }
            self.by_name.insert(name.to_owned(), Service::new(name)?);
        }
        let service = self.find_mut(name)?;
        if service.is_idle() {
            service.start(images.get(image)?, image, manifest.clone(), data_serial, now, out)?;
        } else if service.image() != Some(image) || service.state() == ServiceState::Stopping {
            return Err(Failure::busy(format!("service {name} runs from another image or is stopping")));
        }
        service.answer_when_ready(id);
        service.settle(out);
        Ok(())
    }

    /// Stops a service; the answer comes when it is gone.
    pub fn stop(&mut self, id: u64, name: &str, now: Instant, out: &mut Outbox) -> Result<(), Failure> {
        let service = self.find_mut(name)?;
        service.stop(now, out);
        service.answer_when_stopped(id);
        service.settle(out);
        Ok(())
    }

    /// Brings in something new; the answer comes when it is ready.
    pub fn reload(
        &mut self,
        (id, name): (u64, &str),
        mode: ReloadMode,
        images: &Images,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let service = self.find_mut(name)?;
        let current = service.image().map(str::to_owned);
        let image_of = |image: Option<String>| {
            image.or(current).ok_or_else(|| Failure::not_found(format!("a running generation of {name}")))
        };
        match mode {
            ReloadMode::Signal => service.reload(now, out)?,
            ReloadMode::HandOver { image } => {
                let image = image_of(image)?;
                let manifest = manifest_of(images, &image, name)?.clone();
                service.hand_over(images.get(&image)?, &image, manifest, now, out)?;
            }
            ReloadMode::Restart { image } => {
                let image = image_of(image)?;
                let manifest = manifest_of(images, &image, name)?.clone();
                service.restart(images.get(&image)?, &image, manifest, now, out)?;
            }
        }
        service.answer_when_ready(id);
        service.settle(out);
        Ok(())
    }

    /// How a service is.
    pub fn status(&self, name: &str) -> Result<ServiceStatus, Failure> {
        self.by_name
            .get(name)
            .map(Service::status)
            .ok_or_else(|| Failure::not_found(format!("service {name}")))
    }

    /// How all are.
    pub fn statuses(&self) -> Vec<ServiceStatus> {
        self.by_name.values().map(Service::status).collect()
    }

    /// Lines that each wrote so far, and those of them that speak of an error.
    pub fn logs_counted(&self) -> impl Iterator<Item = (&str, (u64, u64))> {
        self.by_name.iter().map(|(name, service)| (name.as_str(), service.log_counted()))
    }

    /// Whether one of them needs this image.
    pub fn uses_image(&self, image: &str) -> bool {
        self.by_name.values().any(|service| service.uses_image(image))
    }

    /// Runs a program in a service's root and control group.
    pub fn run_beside(&self, name: &str, spec: TaskSpec<'_>, now: Instant) -> Result<Task, Failure> {
        let service = self.by_name.get(name).ok_or_else(|| Failure::not_found(format!("service {name}")))?;
        service.run_beside(spec, now)
    }

    /// Asks all to end.
    pub fn stop_all(&mut self, now: Instant, out: &mut Outbox) {
        for service in self.by_name.values_mut() {
            service.stop(now, out);
        }
    }

    /// Whether nothing of any of them runs.
    pub fn all_stopped(&self) -> bool {
        self.by_name.values().all(Service::is_idle)
    }

    /// Whether one of them waits for the end of this process.
    pub fn owns(&self, pid: u32) -> bool {
        self.by_name.values().any(|service| service.owns(pid))
    }

    /// What wakes them.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        self.by_name.values().for_each(|service| service.wake_fds(fds));
    }

    /// When they must be stepped even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.by_name.values().filter_map(Service::deadline).min()
    }

    /// Moves each as far as it goes now.
    pub fn step(&mut self, now: Instant, out: &mut Outbox) {
        for service in self.by_name.values_mut() {
            service.step(now, out);
        }
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Service, Failure> {
        self.by_name.get_mut(name).ok_or_else(|| Failure::not_found(format!("service {name}")))
    }
}

/// Control group of a service, below the mount; made when missing. It stays when the service stops: rules of its
/// network policy hold on to it.
fn ensure_cgroup(name: &str) -> Result<String, Failure> {
    let path = format!("{SERVICES}/{name}");
    std::fs::create_dir_all(cgroup_dir(&path))
        .map_err(|e| Failure::system(format!("make control group {path}"), &e))?;
    Ok(path)
}
