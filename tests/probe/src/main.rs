//! Takes figures, in the nested host and in its guests, with the same code in both.
//!
//! In the host it is run with one task as its arguments. In a guest it is `/init`: the kernel's command line names the
//! tasks, `probe=disk-read:/dev/vda:4096:1000:1` for each, and after the last the guest powers off. Each task prints one line,
//! `@` and its text, then what it measured, in nanoseconds.

mod clock;
mod console;
mod disk;
mod harts;
mod init;
mod network;
mod run;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return init::run();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match report(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// Does a task and prints what it measured.
fn report(words: &[&str]) -> io::Result<()> {
    let figures: Vec<String> = perform(words)?.iter().map(u64::to_string).collect();
    println!("@{} {}", words.join(":"), figures.join(" "));
    Ok(())
}

/// Does a task, and answers what it measured.
fn perform(words: &[&str]) -> io::Result<Vec<u64>> {
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    Ok(match *words {
        // Since the kernel started its clock, before it does anything else that takes time.
        ["up"] => vec![clock::now()?],
        ["disk-read", path, block, count, depth] => {
            let access = disk::Access::new(number(block)?, number(count)?, number(depth)?)?;
            vec![disk::read(path, access)?]
        }
        ["disk-write", path, block, count, depth] => {
            let access = disk::Access::new(number(block)?, number(count)?, number(depth)?)?;
            vec![disk::write(path, access)?]
        }
        ["disk-make", path, size] => vec![disk::make(path, number(size)?)?],
        ["console", path, bytes] => vec![console::write(path, number(bytes)?)?],
        ["rest", seconds] => vec![harts::rest(number(seconds)?)?],
        ["sleep", nanoseconds, count] => vec![harts::sleep(number(nanoseconds)?, number(count)?)?],
        ["ping", count] => vec![harts::ping(number(count)?)?],
        ["tap", interface] => vec![network::tap(interface)?],
        ["net-up", interface, address] => vec![network::up(interface, address)?],
        ["tcp-serve", address] => vec![network::serve(address)?],
        ["tcp-send", address, bytes] => vec![network::send(address, number(bytes)?)?],
        ["tcp-receive", address, bytes] => vec![network::receive(address, number(bytes)?)?],
        ["tcp-ping", address, count] => vec![network::ping(address, number(count)?)?],
        ["run", count, output, ref command @ ..] => run::repeated(number(count)?, output, command)?,
        _ => return Err(io::Error::other("no such task")),
    })
}
