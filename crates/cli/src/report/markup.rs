//! The page around the content, and the only way for words of others onto it. Must never let them be markup.

use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");

/// Words of others as they may stand in text and in attributes. What is not to be seen, or turns the direction of
/// what follows, is shown as a replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A whole page. `body` is markup already, `title` is not.
pub(super) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

/// Facts in pairs; the second of each is markup already.
pub(super) fn facts(pairs: &[(&str, String)]) -> String {
    let mut text = String::from("<dl class=\"facts\">\n");
    // Writing into a String cannot fail.
    for (name, value) in pairs {
        let _ = writeln!(text, "<div><dt>{}</dt><dd>{value}</dd></div>", escape(name));
    }
    text + "</dl>\n"
}

/// A table; its cells are markup already. On a narrow screen each row is a block, its cells named by the heading.
pub(super) fn table(class: &str, heading: &[&str], rows: &[Row]) -> String {
    let mut text = format!("<table class=\"{class}\">\n<thead><tr>");
    for name in heading {
        let _ = write!(text, "<th scope=\"col\">{}</th>", escape(name));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        let id = row.id.as_ref().map(|id| format!(" id=\"{}\"", escape(id))).unwrap_or_default();
        let _ = write!(text, "<tr{id}>");
        for (name, cell) in heading.iter().zip(&row.cells) {
            let _ = write!(text, "<td data-name=\"{}\">{cell}</td>", escape(name));
        }
        text.push_str("</tr>\n");
    }
    text + "</tbody>\n</table>\n"
}

/// A row of a table.
pub(super) struct Row {
    /// What leads to it within the page.
    pub id: Option<String>,
    /// Markup of its cells.
    pub cells: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_never_markup() {
        assert_eq!(
            escape("<script>\"&'\u{1b}\u{202e}x\u{0}</script>"),
            "&lt;script&gt;&quot;&amp;&#39;\u{fffd}\u{fffd}x\u{fffd}&lt;/script&gt;"
        );
        let page = page("</title><script>", "");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"), "{page}");
    }

    #[test]
    fn a_page_fetches_nothing() {
        let page = page("a", "");
        for word in ["http:", "https:", "url(", "@import", "src=", "<script", "<link"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
