//! How what a VM holds, what its people do, and how its configuration differs are shown; `proteus vm configuration`.

use super::label::indented;
use super::{Outcome, Session};
use crate::argument::When;
use crate::client::segment;
use crate::output::{moment, now, table};
use crate::plot;
use proteus_protocol::api::v1::{
    ConfigurationDiffView, DifferingView, FileKindView, FootprintView, SensitiveView, SessionsView, UsersView,
};
use std::fmt::Write as _;

/// An amount of bytes, signed, in the largest unit that leaves two digits.
pub(super) fn amount(bytes: i128) -> String {
    let (size, sign) = (bytes.unsigned_abs(), if bytes < 0 { "-" } else { "" });
    match size {
        size if size < 10 << 10 => format!("{sign}{size} B"),
        size if size < 10 << 20 => format!("{sign}{} KiB", size >> 10),
        size if size < 10 << 30 => format!("{sign}{} MiB", size >> 20),
        size => format!("{sign}{} GiB", size >> 30),
    }
}

/// What its file systems hold.
pub(super) fn footprint(view: &FootprintView) -> String {
    let growth = view.growth_per_day.map_or("-".to_owned(), |bytes| amount(bytes.into()));
    let mut text = format!(
        "{} files in {} folders on {} file systems, {}; growth a day {growth}; {} read-only images left out\n",
        view.files,
        view.folders,
        view.filesystems,
        amount(view.bytes.into()),
        view.images_skipped
    );
    let row = |(kind, seen): (&String, &FileKindView)| {
        let read = seen.read_day.map_or("-".to_owned(), |count| count.to_string());
        vec![
            kind.clone(),
            seen.files.to_string(),
            amount(seen.bytes.into()),
            seen.changed_day.to_string(),
            read,
        ]
    };
    let mut rows: Vec<_> = view.kinds.iter().filter(|(_, seen)| seen.files > 0).map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row[1].parse::<u64>().unwrap_or(0)));
    text += &table(&["KIND", "FILES", "SIZE", "WRITTEN IN A DAY", "READ IN A DAY"], &rows);
    let row = |(class, seen): (&String, &SensitiveView)| {
        vec![class.clone(), seen.by_name.to_string(), seen.by_content.to_string()]
    };
    let rows: Vec<_> =
        view.sensitive.iter().filter(|(_, seen)| seen.by_name + seen.by_content > 0).map(row).collect();
    let _ = writeln!(
        text,
        "content of {} of {} files that may tell something was sampled",
        view.sampled, view.samplable
    );
    if rows.is_empty() {
        text += "nothing sensitive was found among them\n";
    } else {
        text += &table(&["SENSITIVE", "BY NAME", "BY CONTENT"], &rows);
    }
    indented(&text)
}

/// What its people do.
pub(super) fn users(view: &UsersView) -> String {
    let since = view.given_at.map_or_else(String::new, |at| format!(" on {} UTC", moment(at)));
    let mut text = format!(
        "  consent {}{since}; {} of {} releases made, each with noise of ε = 1 for one session\n",
        view.consent, view.budget_spent, view.budget
    );
    let line = |release: &SessionsView| {
        let hours: Vec<Option<f32>> = release.by_hour.iter().map(|count| Some(*count as f32)).collect();
        let (from, until) = (moment(release.from), moment(release.until));
        format!(
            "  {from} to {until}: about {} sessions, by hour (UTC): {}\n",
            release.sessions,
            plot::line(&hours, 24)
        )
    };
    text.extend(view.releases.iter().map(line));
    text
}

fn differing(view: &ConfigurationDiffView) -> String {
    let mut text = format!("{}: from {} to {} UTC\n", view.vm, moment(view.since), moment(view.until));
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
    let row = |one: &DifferingView| {
        vec![
            one.aspect.clone(),
            one.name.clone(),
            or_none(&one.from),
            or_none(&one.to),
            one.changes.to_string(),
            moment(one.at),
        ]
    };
    let rows: Vec<_> = view.differing.iter().map(row).collect();
    if rows.is_empty() {
        text += "nothing that is known of differs\n";
    } else {
        text += &table(&["ASPECT", "WHICH", "FROM", "TO", "CHANGES", "LAST SEEN (UTC)"], &rows);
    }
    for missing in &view.missing {
        let _ = writeln!(text, "missing: {missing}");
    }
    text
}

impl Session {
    pub(super) async fn configuration(&self, vm: &str, since: When, until: Option<When>) -> Outcome {
        let now = now();
        let until = until.map_or(now, |until| until.at(now));
        let path = format!("/vms/{}/configuration?since={}&until={}", segment(vm), since.at(now).0, until.0);
        let view: ConfigurationDiffView = self.client.get(&path).await?;
        self.print(&view, || differing(&view));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proteus_model::unit::UnixMillis;
    use std::collections::BTreeMap;

    #[test]
    fn a_footprint_is_counts_and_says_what_was_sampled() {
        let kind = |files, bytes, read_day| FileKindView { files, bytes, changed_day: 1, read_day };
        let view = FootprintView {
            complete: true,
            took_ms: 5,
            filesystems: 2,
            images_skipped: 1,
            files: 15,
            folders: 3,
            bytes: 20 << 20,
            growth_per_day: Some(-(64 << 10)),
            kinds: BTreeMap::from([
                ("log".to_owned(), kind(5, 15 << 20, None)),
                ("other".to_owned(), kind(10, 5 << 20, Some(2))),
                ("mail".to_owned(), kind(0, 0, None)),
            ]),
            sizes: vec![0, 5, 10],
            samplable: 12,
            sampled: 6,
            sensitive: BTreeMap::from([
                ("private_keys".to_owned(), SensitiveView { by_name: 1, by_content: 2 }),
                ("card_numbers".to_owned(), SensitiveView { by_name: 0, by_content: 0 }),
            ]),
        };
        expect![[r#"
            footprint
              15 files in 3 folders on 2 file systems, 20 MiB; growth a day -64 KiB; 1 read-only images left out
              KIND   FILES  SIZE      WRITTEN IN A DAY  READ IN A DAY
              other  10     5120 KiB  1                 2
              log    5      15 MiB    1                 -
              content of 6 of 12 files that may tell something was sampled
              SENSITIVE     BY NAME  BY CONTENT
              private_keys  1        2
        "#]]
        .assert_eq(&format!("footprint\n{}", footprint(&view)));
    }

    #[test]
    fn what_differs_is_told_from_end_to_end_with_what_is_missing() {
        let view = ConfigurationDiffView {
            vm: "web".to_owned(),
            since: UnixMillis(0),
            until: UnixMillis(86_400_000),
            differing: vec![DifferingView {
                aspect: "packages".to_owned(),
                name: "nginx".to_owned(),
                from: Some("1.22".to_owned()),
                to: None,
                changes: 3,
                at: UnixMillis(3_600_000),
            }],
            missing: vec!["units: this guest does not run systemd".to_owned()],
        };
        expect![[r#"
            web: from 1970-01-01 00:00:00 to 1970-01-02 00:00:00 UTC
            ASPECT    WHICH  FROM  TO         CHANGES  LAST SEEN (UTC)
            packages  nginx  1.22  not there  3        1970-01-01 01:00:00
            missing: units: this guest does not run systemd
        "#]]
        .assert_eq(&differing(&view));
    }

    #[test]
    fn what_people_consent_to_is_told_as_about() {
        let release = SessionsView {
            number: 1,
            from: UnixMillis(0),
            until: UnixMillis(604_800_000),
            by_hour: (0..24).collect(),
            sessions: 270,
        };
        let view = UsersView {
            consent: "given".to_owned(),
            given_at: Some(UnixMillis(0)),
            budget_spent: 1,
            budget: 8,
            releases: vec![release],
        };
        let text = users(&view);
        assert!(text.contains("about 270 sessions") && text.contains("1 of 8 releases made"), "{text}");
    }
}
