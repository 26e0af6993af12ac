//! `hvrun doctor`: a report of what this host can do, with advice about what is missing.

mod checks;
mod json;
#[cfg(test)]
mod samples;

use std::fmt::Write;

use hv_vmm::{Capabilities, Error, Host};

use checks::{Check, State};
pub use json::KEYS as JSON_KEYS;

/// The widest line.
const WIDTH: usize = 100;

/// What was found, and whether a guest can be booted here.
pub struct Diagnosis {
    host: Host,
    kvm: Result<Capabilities, Error>,
    checks: Vec<Check>,
}

impl Diagnosis {
    /// Looks at this host.
    pub fn make() -> Diagnosis {
        let host = Host::look();
        let kvm = Capabilities::query();
        let checks = checks::all(&host, &kvm);
        Diagnosis { host, kvm, checks }
    }

    /// Whether a guest can be booted here.
    pub fn can_boot(&self) -> bool {
        self.kvm.is_ok()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let kernel = self.host.kernel.as_deref().unwrap_or("unknown");
        let mut text = format!(
            "hvrun {} on {}, Linux {kernel}\n\n",
            env!("CARGO_PKG_VERSION"),
            self.host.architecture
        );
        for check in &self.checks {
            write_check(&mut text, check);
        }
        text.push_str(if self.can_boot() {
            "\nA guest can be booted here.\n"
        } else {
            "\nNo guest can be booted here.\n"
        });
        text
    }

    /// For a program: the shape that `hvrun doctor --help` documents.
    pub fn json(&self) -> String {
        let report = json::Report::new(&self.host, self.kvm.as_ref().ok(), &self.checks);
        // Neither of what serializing can fail for is in the report: maps without string keys, serializers of our own.
        let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// What `hvrun doctor --help` says of the JSON.
pub fn json_help() -> String {
    let mut text = String::from(
        "--json prints one object. Keys may be added to it; version changes when one of these does:\n",
    );
    for (key, meaning) in JSON_KEYS {
        let head = format!("  {key:<10}");
        wrap(&mut text, &head, head.len(), meaning);
    }
    text
}

/// `state  subject  finding`, and below it what to do.
fn write_check(text: &mut String, check: &Check) {
    let state = match check.state {
        State::Ok => "ok",
        State::Note => "note",
        State::Missing => "missing",
    };
    let head = format!("{state:<8} {:<16} ", check.subject);
    let indent = head.len();
    wrap(text, &head, indent, &check.finding);
    if let Some(advice) = &check.advice {
        wrap(text, &format!("{:indent$}-> ", ""), indent + 3, advice);
    }
}

/// Writes `words` behind `head`, with lines of at most [`WIDTH`] characters, all but the first after `indent` spaces. Only a
/// word that is too long by itself makes a longer line.
fn wrap(text: &mut String, head: &str, indent: usize, words: &str) {
    let mut column = indent;
    text.push_str(head);
    for (index, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 {
            if column + 1 + length > WIDTH {
                // Writing to a String does not fail.
                let _ = write!(text, "\n{:indent$}", "");
                column = indent;
            } else {
                text.push(' ');
                column += 1;
            }
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis((host, kvm): (Host, Result<Capabilities, Error>)) -> Diagnosis {
        let checks = checks::all(&host, &kvm);
        Diagnosis { host, kvm, checks }
    }

    #[test]
    fn a_person_reads_lines_that_fit() {
        let good = diagnosis(samples::good());
        let text = good.text();
        assert!(good.can_boot());
        assert!(text.ends_with("\nA guest can be booted here.\n"), "{text}");
        for line in text.lines() {
            let long = line.chars().count() > WIDTH;
            // A chain of extensions is one word.
            assert!(!long || line.contains("rv64"), "{line}");
            assert_eq!(line.trim_end(), line);
        }
    }

    #[test]
    fn what_is_missing_has_advice_below_it() {
        let bad = diagnosis(samples::no_module());
        let text = bad.text();
        assert!(!bad.can_boot());
        let mut lines = text
            .lines()
            .skip_while(|line| !line.starts_with("missing  KVM "));
        assert!(lines.next().unwrap().contains("/dev/kvm"), "{text}");
        assert!(
            lines.next().unwrap().trim_start().starts_with("-> "),
            "{text}"
        );
        assert!(text.ends_with("\nNo guest can be booted here.\n"), "{text}");
    }

    #[test]
    fn a_program_reads_the_documented_keys() {
        for (sample, can_boot) in [
            (samples::good(), true),
            (samples::refused_aia(), true),
            (samples::no_module(), false),
        ] {
            let value: serde_json::Value = serde_json::from_str(&diagnosis(sample).json()).unwrap();
            assert_eq!(value["can_boot"], can_boot);
            assert_eq!(value["version"], 1);
            assert_eq!(value["hvrun"], env!("CARGO_PKG_VERSION"));
            for check in value["checks"].as_array().unwrap() {
                assert!(check["subject"].is_string() && check["finding"].is_string());
                assert!(["ok", "note", "missing"].contains(&check["state"].as_str().unwrap()));
                assert!(check["advice"].is_string() || check["advice"].is_null());
            }
            assert_eq!(value["kvm"].is_object(), can_boot);
        }
    }

    /// It is the chip that is missing, not the guest.
    #[test]
    fn a_guest_can_be_booted_without_the_aia_that_kvm_refuses() {
        let refused = diagnosis(samples::refused_aia());
        let text = refused.text();
        assert!(refused.can_boot());
        assert!(text.ends_with("\nA guest can be booted here.\n"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&refused.json()).unwrap();
        assert_eq!(value["kvm"]["irqchips"], serde_json::json!(["plic"]));
        assert!(value["kvm"]["aia"].is_null());
        let problem = value["kvm"]["aia_problem"].as_str().unwrap();
        assert!(problem.contains("interrupt sources"), "{problem}");
    }

    /// The help is where the shape is documented: every key of a report is named there.
    #[test]
    fn the_help_documents_every_key() {
        fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(members) => {
                    for (key, value) in members {
                        found.push(key.clone());
                        keys(value, found);
                    }
                }
                serde_json::Value::Array(values) => {
                    values.iter().for_each(|value| keys(value, found));
                }
                _ => {}
            }
        }
        use clap::CommandFactory;
        let mut command = crate::args::Args::command();
        command.build();
        let doctor = command.find_subcommand_mut("doctor").unwrap();
        let help = doctor.render_long_help().to_string();
        let report = diagnosis(samples::good()).json();
        let mut found = Vec::new();
        keys(&serde_json::from_str(&report).unwrap(), &mut found);
        assert!(found.len() > 20);
        for key in found {
            let named = help
                .split(|character: char| !character.is_alphanumeric() && character != '_')
                .any(|word| word == key);
            assert!(named, "{key} is not in: {help}");
        }
    }

    #[test]
    fn wrapping_keeps_the_words() {
        let mut text = String::new();
        let words = "word ".repeat(60);
        wrap(&mut text, "ok  ", 4, words.trim_end());
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        assert!(
            text.lines()
                .skip(1)
                .all(|line| line.starts_with("    word"))
        );
        assert_eq!(text.matches("word").count(), 60);
    }
}
