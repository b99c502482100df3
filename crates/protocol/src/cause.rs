//! Why something failed, told whole: errors go over the wire, and into records, as one line of text.

/// The whole chain of causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Why(&'static str, #[source] Option<Box<Why>>);

    #[test]
    fn every_cause_is_told_once_and_in_order() {
        let last = Why("no such file", None);
        assert_eq!(chain(&last), "no such file");
        let first = Why("start web", Some(Box::new(Why("open its disk", Some(Box::new(last))))));
        assert_eq!(chain(&first), "start web: open its disk: no such file");
    }
}
