//! The texts of help and manual page apart from the options, and the manual page itself.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::args::Args;
use crate::doctor;
use crate::keys::KEYS;

/// Exit codes and their meaning.
const EXIT_CODES: [(&str, &str); 7] = [
    ("0", "the guest powered off, or Ctrl-a x ended it"),
    (
        "1",
        "hvrun could not start or continue the guest, or could not write all of its output; the reason is on stderr",
    ),
    ("2", "the command line is wrong"),
    (
        "3",
        "the guest powered off and reported a system failure (SBI SRST, reason 1)",
    ),
    ("4", "the guest reset itself, and --no-reboot was given"),
    (
        "N",
        "the guest reported failure N through the test device: its low 8 bits, or 1 if they are 0",
    ),
    (
        "128+N",
        "ended by signal N (130 SIGINT, 143 SIGTERM, 129 SIGHUP; 159 is the sandbox, see --sandbox)",
    ),
];

/// Common uses.
const EXAMPLES: [(&str, &str); 4] = [
    (
        "a kernel and its root disk",
        "hvrun --kernel Image --disk rootfs.img",
    ),
    (
        "four harts, an initrd, and the network of the host's tap interface tap0",
        "hvrun --cpus 4 --memory 2G --kernel vmlinuz --initrd initrd.img --net tap=tap0",
    ),
    (
        "a script as input of a guest's console, the output in a file",
        "printf 'uname -a\\npoweroff\\n' | hvrun --kernel Image --disk rootfs.img > console.log",
    ),
    ("what this host can do", "hvrun doctor"),
];

/// What `-h` says after the options.
pub const MORE: &str = "\
For details, keys, exit codes and examples: hvrun --help. To check this host: hvrun doctor.";

/// What `--help` says after the options.
pub fn after_long_help() -> String {
    let mut text = String::from("Keys, when the console is a terminal:\n");
    for (key, what) in KEYS {
        text += &format!("  {key}  {what}\n");
    }
    text += "\nExit codes:\n";
    for (code, meaning) in EXIT_CODES {
        text += &format!("  {code:<5}  {meaning}\n");
    }
    text += "\nExamples:";
    for (_, command) in EXAMPLES {
        text += &format!("\n  {command}");
    }
    text
}

/// The manual page, for `man`.
///
/// # Errors
/// Those of writing into memory: none.
pub fn page() -> io::Result<Vec<u8>> {
    let command = Args::command();
    let man = Man::new(command.clone())
        .title("HVRUN")
        // The version stands where other pages have a date, which man takes for granted.
        .source("hvrun")
        .date(env!("CARGO_PKG_VERSION"))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    commands(&mut roff, command);
    table(&mut roff, "REPORT OF DOCTOR --JSON", &doctor::JSON_KEYS);
    table(&mut roff, "KEYS", &KEYS);
    table(&mut roff, "EXIT STATUS", &EXIT_CODES);
    roff.control("SH", ["EXAMPLES"]);
    for (what, command) in EXAMPLES {
        roff.control("TP", []);
        roff.text([roman(what)]);
        roff.text([bold(command)]);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// The commands, each with its own options.
fn commands(roff: &mut Roff, mut command: Command) {
    command.build();
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands() {
        let usage = format!("hvrun {}", command.get_name());
        roff.control("TP", []);
        let mut head = vec![bold(usage)];
        for argument in command.get_positionals() {
            head.push(roman(" "));
            head.push(italic(argument.to_string()));
        }
        roff.text(head);
        let about = command.get_long_about().or_else(|| command.get_about());
        paragraphs(roff, &about.map(ToString::to_string).unwrap_or_default());
        let options = command
            .get_arguments()
            .filter(|argument| !argument.is_positional() && argument.get_id() != "help");
        for argument in options {
            let help = argument.get_help().map(ToString::to_string);
            roff.control("IP", []);
            roff.text([
                bold(argument.to_string()),
                roman(": "),
                roman(help.unwrap_or_default()),
            ]);
        }
    }
}

/// Text of several paragraphs, below a tag.
fn paragraphs(roff: &mut Roff, text: &str) {
    for line in text.lines() {
        if line.is_empty() {
            roff.control("IP", []);
        } else {
            roff.text([roman(line)]);
        }
    }
}

/// A section of tags and what they mean.
fn table(roff: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (tag, text) in rows {
        roff.control("TP", []);
        roff.text([bold(*tag)]);
        roff.text([roman(*text)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    /// The page as one line of plain text, in which roff's escapes for `-` and fonts are gone.
    fn plain() -> String {
        let page = String::from_utf8(page().unwrap()).unwrap();
        page.replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fI", "")
            .replace("\\fR", "")
            .replace("\\*(Aq", "'")
            .replace('\n', " ")
    }

    #[test]
    fn every_option_and_command_is_in_the_page() {
        let page = plain();
        let mut command = Args::command();
        command.build();
        for argument in command.get_arguments() {
            let long = argument.get_long().unwrap();
            assert!(page.contains(&format!("--{long}")), "--{long}");
        }
        for command in command.get_subcommands() {
            assert!(page.contains(&format!("hvrun {}", command.get_name())));
            for long in command.get_arguments().filter_map(Arg::get_long) {
                assert!(
                    page.contains(&format!("--{long}: ")) || long == "help",
                    "--{long}"
                );
            }
        }
    }

    #[test]
    fn the_page_has_its_sections() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        assert!(page.contains(".TH HVRUN 1"));
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "COMMANDS",
            "KEYS",
            "\"EXIT STATUS\"",
            "EXAMPLES",
        ] {
            assert!(page.contains(&format!(".SH {section}\n")), "{section}");
        }
    }

    #[test]
    fn help_and_page_have_every_key_code_and_example() {
        let page = plain();
        let help = after_long_help();
        for (tag, text) in KEYS.iter().chain(&EXIT_CODES) {
            for place in [&page, &help] {
                assert!(place.contains(tag) && place.contains(text), "{tag}: {text}");
            }
        }
        for (_, command) in EXAMPLES {
            assert!(help.contains(command));
            assert!(page.contains(&command.replace('\\', "\\\\")), "{command}");
        }
    }
}
