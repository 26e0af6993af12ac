//! What `--console` says, and the chardevs that it stands for.

use std::fs::File;
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hv_vmm::{Chardev, ConsoleConfig, DeviceConfig, InputFilter, Location, Stdio};

use crate::device::{parse_location, split_options};

/// One `--console`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No console at all.
    None,
    /// The serial port on a pseudo-terminal, the virtio console on stdio.
    Both,
    /// The serial port.
    Serial(To),
    /// The virtio console.
    Virtio(To, Location),
    /// A port of the virtio console device, by its name.
    Port(String, To, Location),
}

/// What a console or a port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// stdin and stdout.
    Stdio,
    /// A file for the output.
    File(PathBuf),
    /// A pseudo-terminal.
    Pty,
    /// A socket to listen on.
    Unix(PathBuf),
}

/// The most bytes of a port's name. It becomes a file's name in the guest.
const MAX_NAME: usize = 255;

/// `serial[,to=END] | virtio[,port=NAME][,to=END][,slot=N][,virtio=VERSION] | both | none`, where `,,` in a path stands
/// for one comma.
pub fn parse_console(text: &str) -> Result<Choice, String> {
    let mut options = split_options(text).into_iter();
    let kind = options.next().unwrap_or_default();
    let mut to = None;
    let mut port = None;
    let mut location = Location::default();
    for option in options {
        match (kind.as_str(), option.split_once('=')) {
            ("serial" | "virtio", Some(("to", end))) => to = Some(parse_end(end)?),
            ("virtio", Some(("port", name))) => port = Some(parse_name(name)?),
            ("virtio", _) if parse_location(&option, &mut location)? => {}
            ("virtio", _) => {
                return Err(format!(
                    "unknown option {option:?}: expected to=stdio, to=file:PATH, to=pty, to=unix:PATH, port=NAME, slot=0 to 7, \
                     virtio=modern or virtio=legacy (a comma in a path is written twice)"
                ));
            }
            ("serial", _) => {
                return Err(format!(
                    "unknown option {option:?}: expected to=stdio, to=file:PATH, to=pty or to=unix:PATH (a comma in a path is \
                     written twice)"
                ));
            }
            ("both" | "none", _) => {
                return Err(format!(
                    "{kind} has no options; name the consoles one by one, such as --console serial,to=pty --console virtio"
                ));
            }
            _ => break,
        }
    }
    match (kind.as_str(), port) {
        ("none", _) => Ok(Choice::None),
        ("both", _) => Ok(Choice::Both),
        ("serial", _) => Ok(Choice::Serial(to.unwrap_or(To::Stdio))),
        ("virtio", None) => Ok(Choice::Virtio(to.unwrap_or(To::Stdio), location)),
        ("virtio", Some(name)) => {
            let to = to
                .ok_or("a port needs a back end: to=unix:PATH, to=pty, to=file:PATH or to=stdio")?;
            Ok(Choice::Port(name, to, location))
        }
        _ => Err(
            "expected serial, virtio, both or none, and for the first two options such as to=pty"
                .into(),
        ),
    }
}

fn parse_end(text: &str) -> Result<To, String> {
    match text.split_once(':') {
        None if text == "stdio" => Ok(To::Stdio),
        None if text == "pty" => Ok(To::Pty),
        Some(("file", path)) if !path.is_empty() => Ok(To::File(path.into())),
        Some(("unix", path)) if !path.is_empty() => Ok(To::Unix(path.into())),
        _ => Err("to= expects stdio, file:PATH, pty or unix:PATH".into()),
    }
}

/// The name goes through to udev and into paths of the guest's.
fn parse_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty()
        || name.len() > MAX_NAME
        || name.starts_with('.')
        || !name.chars().all(is_plain)
    {
        return Err(
            "port= expects a name for the guest's /dev/virtio-ports, such as org.example.agent"
                .into(),
        );
    }
    Ok(name.to_owned())
}

/// All consoles and ports of a machine. The default is the serial port on stdio.
#[derive(Debug, PartialEq, Eq)]
pub struct Consoles {
    serial: Option<To>,
    virtio: Option<To>,
    ports: Vec<(String, To)>,
    location: Location,
}

impl Consoles {
    /// The consoles that all `--console` options together describe.
    ///
    /// # Errors
    /// A message for the user, if the options contradict each other.
    pub fn new(choices: &[Choice]) -> Result<Consoles, String> {
        let mut none = false;
        let mut consoles = Consoles {
            serial: None,
            virtio: None,
            ports: Vec::new(),
            location: Location::default(),
        };
        for choice in choices {
            match choice.clone() {
                Choice::None => none = true,
                Choice::Both => {
                    set(&mut consoles.serial, To::Pty, "serial port")?;
                    set(&mut consoles.virtio, To::Stdio, "virtio console")?;
                }
                Choice::Serial(to) => set(&mut consoles.serial, to, "serial port")?,
                Choice::Virtio(to, location) => {
                    set(&mut consoles.virtio, to, "virtio console")?;
                    consoles.place(location)?;
                }
                Choice::Port(name, to, location) => {
                    if consoles.ports.iter().any(|(other, _)| *other == name) {
                        return Err(format!("--console names the port {name} twice"));
                    }
                    consoles.ports.push((name, to));
                    consoles.place(location)?;
                }
            }
        }
        match (none, &consoles.serial, &consoles.virtio) {
            (true, None, None) => {}
            (true, _, _) => {
                return Err("--console none is for a machine without any other console".into());
            }
            (false, None, None) => consoles.serial = Some(To::Stdio),
            (false, _, _) => {}
        }
        if consoles.all().filter(|to| **to == To::Stdio).count() > 1 {
            return Err(
                "only one console can have stdin and stdout; give the others to=pty, to=file:PATH or to=unix:PATH, or the \
                 machine no further console by --console none"
                    .into(),
            );
        }
        Ok(consoles)
    }

    /// All are on one device, so that it is enough if one of them says where it is.
    fn place(&mut self, location: Location) -> Result<(), String> {
        let Location { slot, version } = &mut self.location;
        if let (Some(one), Some(other)) = (*slot, location.slot)
            && one != other
        {
            return Err(format!(
                "virtio console and ports are one device, which is in slot {one} or {other}, not both"
            ));
        }
        if let (Some(one), Some(other)) = (*version, location.version)
            && one != other
        {
            return Err(
                "virtio console and ports are one device, which is modern or legacy, not both"
                    .into(),
            );
        }
        *slot = slot.or(location.slot);
        *version = version.or(location.version);
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &To> {
        let consoles = self.serial.iter().chain(&self.virtio);
        consoles.chain(self.ports.iter().map(|(_, to)| to))
    }

    /// Whether one of them has stdin and stdout.
    pub fn have_stdio(&self) -> bool {
        self.all().any(|to| *to == To::Stdio)
    }

    /// Whether the guest learns the size of the terminal on stdin and stdout, if they are one.
    pub fn have_a_size(&self) -> bool {
        self.virtio == Some(To::Stdio)
    }

    /// The chardev of the machine's serial port, and its virtio console device. `resized` becomes readable when the size of the
    /// terminal changes, and `filter` sees what comes from stdin.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn config(
        self,
        resized: Option<OwnedFd>,
        filter: Option<Arc<dyn InputFilter>>,
    ) -> std::io::Result<(Option<Chardev>, Option<DeviceConfig>)> {
        let mut resized = resized;
        let mut chardev = |to| -> std::io::Result<Chardev> {
            Ok(match to {
                To::Stdio => Chardev::Stdio(Stdio {
                    input: Some(copy(stdin())?),
                    output: copy(stdout())?,
                    filter: filter.clone(),
                    resized: resized.take(),
                }),
                To::File(path) => Chardev::File(path),
                To::Pty => Chardev::Pty,
                To::Unix(path) => Chardev::Unix(path),
            })
        };
        let serial = self.serial.map(&mut chardev).transpose()?;
        let has_device = self.virtio.is_some() || !self.ports.is_empty();
        let mut device = ConsoleConfig::default();
        device.console = self.virtio.map(&mut chardev).transpose()?;
        for (name, to) in self.ports {
            device = device.port(name, chardev(to)?);
        }
        let device = has_device.then(|| DeviceConfig::from(device).location(self.location));
        Ok((serial, device))
    }
}

fn set(console: &mut Option<To>, to: To, name: &str) -> Result<(), String> {
    match console.replace(to) {
        None => Ok(()),
        Some(_) => Err(format!("--console gives the machine two of its one {name}")),
    }
}

/// Another descriptor of the same file.
fn copy(fd: impl AsFd) -> std::io::Result<File> {
    fd.as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_vmm::VirtioVersion;

    fn consoles(texts: &[&str]) -> Result<Consoles, String> {
        let choices: Result<Vec<_>, _> = texts.iter().map(|text| parse_console(text)).collect();
        Consoles::new(&choices?)
    }

    #[test]
    fn kinds_and_ends() {
        let console = |serial, virtio| {
            Ok(Consoles {
                serial,
                virtio,
                ports: vec![],
                location: Location::default(),
            })
        };
        use To::{Pty, Stdio};
        assert_eq!(consoles(&[]), console(Some(Stdio), None));
        assert_eq!(consoles(&["serial"]), console(Some(Stdio), None));
        assert_eq!(consoles(&["virtio"]), console(None, Some(Stdio)));
        assert_eq!(consoles(&["both"]), console(Some(Pty), Some(Stdio)));
        assert_eq!(consoles(&["none"]), console(None, None));
        assert_eq!(
            consoles(&["serial,to=file:a,,b:c", "virtio,to=unix:/run/x"]),
            console(
                Some(To::File("a,b:c".into())),
                Some(To::Unix("/run/x".into()))
            )
        );
    }

    #[test]
    fn ports() {
        let port = "virtio,port=org.example.0,to=unix:socket,slot=7";
        let with_serial = consoles(&[port]).unwrap();
        assert_eq!(with_serial.serial, Some(To::Stdio));
        assert_eq!(with_serial.location.slot, Some(7));
        assert_eq!(
            with_serial.ports,
            [("org.example.0".into(), To::Unix("socket".into()))]
        );
        assert_eq!(consoles(&[port, "none"]).unwrap().serial, None);
        let beside = consoles(&["virtio,virtio=legacy", port]).unwrap();
        assert_eq!(beside.serial, None);
        assert_eq!(beside.location.version, Some(VirtioVersion::Legacy));
        assert!(consoles(&["none", "virtio,port=a,to=stdio"]).is_ok());
    }

    #[test]
    fn contradictions() {
        for wrong in [
            &[""][..],
            &["Serial"],
            &["vt"],
            &["serial,port=a,to=pty"],
            &["serial,slot=1"],
            &["virtio,slot=8"],
            &["virtio,to=file"],
            &["virtio,to=file:"],
            &["virtio,to=tcp:1"],
            &["virtio,port=a"],
            &["virtio,port=,to=pty"],
            &["virtio,port=a/b,to=pty"],
            &["virtio,port=..,to=pty"],
            &["both,to=pty"],
            &["none,to=pty"],
            &["none", "serial"],
            &["both", "serial"],
            &["serial", "serial,to=pty"],
            &["serial", "virtio"],
            &["virtio,port=a,to=stdio"],
            &["virtio,port=a,to=pty", "virtio,port=a,to=file:x"],
            &["virtio,slot=1", "virtio,port=a,to=pty,slot=2"],
        ] {
            assert!(consoles(wrong).is_err(), "{wrong:?}");
        }
    }
}
