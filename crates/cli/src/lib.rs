//! The command line: words in, requests to the API, answers as text or JSON. Must never do anything that the API
//! does not offer, but for reading files that the user names.

pub mod argument;

pub mod client;

pub mod error;

pub mod command;

mod file;

mod follow;

pub mod intent;

mod plot;

mod report;

pub mod prometheus;

pub mod output;

pub mod terminal;

pub mod told;

mod top;

pub mod wait;
