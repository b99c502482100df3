//! Turns the knobs inside the guest. Each apply reads back what it wrote and answers with that: a value that does
//! not read back is a failure, whatever the write said. Must never touch a key that was not validated.

pub mod application;

pub mod cpu;

pub mod kernel;

pub mod network_policy;

pub mod priority;

use crate::failure::Failure;
use proteus_protocol::guest::v1::{Knob, Setting};

/// Reads a knob. Network policies are read by [`network_policy`], which has to ask a program.
pub fn read(knob: &Knob) -> Result<Setting, Failure> {
    knob.validate().map_err(|e| Failure::invalid(&e))?;
    match knob {
        Knob::VcpusOnline => Ok(Setting::VcpusOnline { count: cpu::online()? }),
        Knob::Sysctl { key } => Ok(Setting::Sysctl { key: key.clone(), value: kernel::sysctl(key)? }),
        Knob::ThpMode => Ok(Setting::ThpMode { mode: kernel::thp()? }),
        Knob::IoScheduler { disk } => {
            Ok(Setting::IoScheduler { disk: disk.clone(), scheduler: kernel::io_scheduler(disk)? })
        }
        Knob::Priority { application } => {
            let priority = priority::read(application)?;
            Ok(Setting::Priority { application: application.clone(), priority })
        }
        Knob::NetworkPolicy { .. } | Knob::Unknown => Err(unknown()),
    }
}

/// Turns a knob and reads it back.
pub fn apply(setting: &Setting) -> Result<Setting, Failure> {
    setting.validate().map_err(|e| Failure::invalid(&e))?;
    match setting {
        Setting::VcpusOnline { count } => cpu::set_online(*count)?,
        Setting::Sysctl { key, value } => kernel::set_sysctl(key, value)?,
        Setting::ThpMode { mode } => kernel::set_thp(*mode)?,
        Setting::IoScheduler { disk, scheduler } => kernel::set_io_scheduler(disk, scheduler)?,
        Setting::Priority { application, priority } => priority::apply(application, priority)?,
        Setting::NetworkPolicy { .. } | Setting::Unknown => return Err(unknown()),
    }
    read(&setting.knob())
}

fn unknown() -> Failure {
    Failure::unsupported("this agent does not know that knob")
}
