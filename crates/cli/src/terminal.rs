//! Words for whoever sits before the terminal. A reader that went away (`| head`) is no failure of a command, and no
//! reason to end in the middle of it: `print!` and its kin would panic.

use std::fmt::Arguments;
use std::io::Write;

/// Writes to standard output what was asked for.
pub fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error what goes beside it: progress, plans before they are carried out, errors.
pub fn write_aside(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// A line of standard output.
pub fn say(line: Arguments<'_>) {
    write(&format!("{line}\n"));
}

/// A line of standard error.
pub fn say_aside(line: Arguments<'_>) {
    write_aside(&format!("{line}\n"));
}
