//! The guest's consoles and ports, and the chardevs behind them, which stay open from one boot of the guest to the next.
//!
//! | module | what it holds |
//! |---|---|
//! | `config` | what the owner of the machine chooses |
//! | `feed` | input on its way to a device, whatever it comes from |
//! | `stdio`, `pty`, `socket` | what it comes from |
//! | `resize` | the size of a terminal on its way |

mod config;
mod feed;
mod pty;
mod resize;
mod socket;
mod stdio;

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_manager::MutEventSubscriber;
use hv_devices::chardev::{
    self, InputSink, LostOutput, Merged, Nowhere, OutputFile, OutputSink, OutputThread,
};
use hv_devices::uart::Uart;
use hv_devices::virtio::console::{MAX_PORTS, PortConfig as DevicePort, Ports};

use crate::Error;
use crate::control::stop::Stop;
use crate::inputs::Inputs;
use feed::Input;
use resize::Resize;
use socket::SocketSource;
use stdio::StdioSource;

pub use config::{Chardev, InputFilter, PortConfig, Stdio};

/// A pseudo-terminal that somebody may open to be at a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PseudoTerminal {
    /// The console's name for people: `serial port`, `virtio console`, `port NAME`.
    pub console: String,
    /// What to open, such as `/dev/pts/3`.
    pub path: PathBuf,
}

/// All consoles and ports of a machine.
pub struct Consoles {
    outputs: Vec<Output>,
    /// Those that are to be emptied.
    files: Vec<OutputFile>,
    /// Of every console and port that has input, and what follows the terminal's size. One thread opens them, another may
    /// serve them.
    subscribers: Vec<Arc<Mutex<dyn MutEventSubscriber + Send>>>,
    /// That of the serial port, whose device is another one after each reboot.
    serial_input: Option<Arc<Mutex<Input>>>,
    serial: Arc<dyn OutputSink>,
    /// Of a machine whose serial port has no chardev of its own.
    merged: Option<Merged>,
    firmware: Firmware,
    ports: Option<Arc<Ports>>,
    terminals: Vec<PseudoTerminal>,
}

/// The console of SBI: that of the standard streams, or else the first that there is.
struct Firmware {
    output: Arc<dyn OutputSink>,
    /// `None` if the input is the serial port's.
    input: Option<Arc<dyn InputSink>>,
}

/// The output of one console or port.
struct Output {
    thread: Arc<OutputThread>,
    manner: Manner,
}

/// How to deal with somebody who reads slowly, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// A file, or the user's own terminal or pipe: the guest waits, and so does its end.
    Complete,
    /// A channel's client: the guest waits, its end does not.
    HeldBack,
    /// Somebody who looks at a console, or has left it open and gone: a guest that waits for the console cannot do
    /// anything else meanwhile.
    Lossy,
}

/// Locks an input. The event loop does so for each event, on the thread that runs the machine. This is for the time between
/// two loops, so nobody waits.
fn lock(input: &Mutex<Input>) -> MutexGuard<'_, Input> {
    input.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chardev that is open.
struct Opened {
    output: Arc<OutputThread>,
    input: Option<Arc<Mutex<Input>>>,
    /// The files that may say a size, and what to wait for.
    terminal: Option<(Vec<File>, Option<std::os::fd::OwnedFd>)>,
    /// The input comes from the user's terminal.
    on_terminal: bool,
}

/// What the machine's owner asks for, for the consoles.
#[derive(Clone, Copy)]
struct Chardevs<'a> {
    serial: Option<&'a Chardev>,
    virtio: Option<&'a Chardev>,
}

impl Consoles {
    /// Opens the chardevs of the serial port, and of the virtio console device if there is one; files are not changed yet.
    ///
    /// # Errors
    /// Something cannot be opened, or is one of `inputs`, or there are more ports than a device has, or `stop` came first.
    pub fn open(
        serial: Option<&Chardev>,
        virtio: Option<&Chardev>,
        ports: &[PortConfig],
        inputs: &Inputs,
        stop: &Stop,
    ) -> Result<Consoles, Error> {
        let chardevs = Chardevs { serial, virtio };
        let most = MAX_PORTS.saturating_sub(usize::from(chardevs.virtio.is_some()));
        if ports.len() > most {
            return Err(Error::TooManyPorts {
                asked: ports.len(),
                max: most,
            });
        }
        let mut consoles = Consoles {
            outputs: Vec::new(),
            files: Vec::new(),
            subscribers: Vec::new(),
            serial_input: None,
            serial: Arc::new(Nowhere),
            merged: None,
            firmware: Firmware {
                output: Arc::new(Nowhere),
                input: None,
            },
            ports: None,
            terminals: Vec::new(),
        };
        let mut open =
            |chardev, name, is_console| consoles.open_one(chardev, name, is_console, inputs, stop);
        let serial = (chardevs.serial)
            .map(|chardev| open(chardev, "serial port".into(), true))
            .transpose()?;
        let virtio = (chardevs.virtio)
            .map(|chardev| open(chardev, "virtio console".into(), true))
            .transpose()?;
        let channels = (ports.iter())
            .map(|port| open(&port.chardev, format!("port {}", port.name), false))
            .collect::<Result<Vec<_>, _>>()?;

        let mut merged = match (&serial, &virtio) {
            (None, Some(opened)) => Some(Merged::new(opened.output.clone())),
            _ => None,
        };
        let mut stream = || merged.as_mut().and_then(Merged::stream);
        let (mut console, early) = (stream(), stream().zip(stream()));
        consoles.merged = merged;
        let names = ports.iter().map(|port| port.name.clone());
        let names = virtio.iter().map(|_| String::new()).chain(names);
        let devices = virtio.iter().chain(&channels);
        let ports: Vec<DevicePort> = names
            .zip(devices)
            .map(|(name, opened)| DevicePort {
                is_console: name.is_empty(),
                on_terminal: opened.on_terminal,
                // The virtio console comes first.
                output: console.take().unwrap_or_else(|| opened.output.clone()),
                name,
            })
            .collect();
        if !ports.is_empty() {
            let ports = Ports::new(ports).map_err(Error::host("make a virtio console"))?;
            consoles.ports = Some(Arc::new(ports));
        }
        consoles.connect(chardevs, serial, virtio, channels)?;
        if let Some((serial, firmware)) = early {
            consoles.serial = serial;
            consoles.firmware.output = firmware;
        }
        Ok(consoles)
    }

    /// Connects the devices with their chardevs.
    fn connect(
        &mut self,
        chardevs: Chardevs,
        serial: Option<Opened>,
        virtio: Option<Opened>,
        channels: Vec<Opened>,
    ) -> Result<(), Error> {
        let port = |number| self.ports.as_ref().and_then(|ports| ports.get(number));
        let console = virtio.as_ref().and_then(|_| port(0));
        if let Some(first) = serial.as_ref().or(virtio.as_ref()) {
            self.serial = first.output.clone();
            self.firmware.output = first.output.clone();
        }
        let is_stdio = |chardev: Option<&Chardev>| matches!(chardev, Some(Chardev::Stdio(_)));
        if let (Some(opened), Some(console)) = (&virtio, &console)
            && (serial.is_none() || (is_stdio(chardevs.virtio) && !is_stdio(chardevs.serial)))
        {
            self.firmware = Firmware {
                output: opened.output.clone(),
                input: Some(console.clone()),
            };
        }
        for (number, opened) in virtio.iter().chain(&channels).enumerate() {
            if let (Some(input), Some(port)) = (&opened.input, port(number)) {
                lock(input).attach(port)?;
            }
        }
        if let (
            Some(Opened {
                terminal: Some((files, event)),
                ..
            }),
            Some(console),
        ) = (virtio, console)
        {
            let resize = Resize::new(event, files, console);
            self.subscribers.push(Arc::new(Mutex::new(resize)));
        }
        self.serial_input = serial.and_then(|serial| serial.input);
        Ok(())
    }

    fn open_one(
        &mut self,
        chardev: &Chardev,
        name: String,
        is_console: bool,
        inputs: &Inputs,
        stop: &Stop,
    ) -> Result<Opened, Error> {
        let thread = Error::host("start the console's thread");
        let mut terminal = None;
        let mut on_terminal = false;
        let (output, input) = match chardev {
            Chardev::Stdio(stdio) => {
                let copy = |file: &File| file.try_clone().map_err(Error::host("copy a descriptor"));
                let output = OutputThread::spawn(copy(&stdio.output)?, name.as_str());
                let output = Arc::new(output.map_err(thread)?);
                let mut files = vec![copy(&stdio.output)?];
                let mut input = None;
                if let Some(file) = &stdio.input {
                    on_terminal = file.is_terminal();
                    files.push(copy(file)?);
                    let source =
                        StdioSource::new(copy(file)?, stdio.filter.clone(), output.clone());
                    input = Some(Input::new(&name, source)?);
                }
                let event = stdio.resized.as_ref().map(|event| event.try_clone());
                let event = event
                    .transpose()
                    .map_err(Error::host("copy a descriptor"))?;
                terminal = Some((files, event));
                (output, input)
            }
            Chardev::File(path) => {
                let (inputs, path, what) =
                    (inputs.clone(), path.clone(), format!("{name}'s output"));
                let file = stop.unless_stopped(move || inputs.open_output(&path, &what))??;
                let output = OutputThread::spawn(file.file()?, name).map_err(thread)?;
                self.files.push(file);
                (Arc::new(output), None)
            }
            Chardev::Pty => {
                let pty = chardev::Pty::open()?;
                self.terminals.push(PseudoTerminal {
                    console: name.clone(),
                    path: pty.path().to_owned(),
                });
                let output = pty.output(name.as_str()).map_err(thread)?;
                (Arc::new(output), Some(Input::new(&name, pty)?))
            }
            Chardev::Unix(path) => {
                let path = path.clone();
                let socket = stop.unless_stopped(move || chardev::Socket::bind(&path))??;
                let output = socket.output(name.as_str()).map_err(thread)?;
                let input = Input::new(&name, SocketSource::new(socket))?;
                (Arc::new(output), Some(input))
            }
        };
        let manner = match chardev {
            Chardev::Stdio(_) | Chardev::File(_) => Manner::Complete,
            Chardev::Pty | Chardev::Unix(_) if is_console => Manner::Lossy,
            Chardev::Pty | Chardev::Unix(_) => Manner::HeldBack,
        };
        output.set_lossy(manner == Manner::Lossy);
        self.outputs.push(Output {
            thread: output.clone(),
            manner,
        });
        let input = input.map(|input| Arc::new(Mutex::new(input)));
        if let Some(input) = &input {
            self.subscribers.push(input.clone());
        }
        Ok(Opened {
            output,
            input,
            terminal,
            on_terminal,
        })
    }

    /// Removes what is in the files for output.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn empty_files(&self) -> Result<(), Error> {
        Ok(self.files.iter().try_for_each(OutputFile::empty)?)
    }

    /// Connects the serial port of the guest's next boot.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn attach_serial(&self, uart: &Arc<Uart>) -> Result<(), Error> {
        match &self.serial_input {
            Some(input) => lock(input).attach(uart.clone()),
            None => Ok(()),
        }
    }

    /// What the event loop has to serve.
    pub fn subscribers(&self) -> impl Iterator<Item = Box<dyn MutEventSubscriber>> {
        self.subscribers
            .iter()
            .map(|subscriber| -> Box<dyn MutEventSubscriber> { Box::new(subscriber.clone()) })
    }

    /// Where the serial port's output goes.
    pub fn serial(&self) -> &Arc<dyn OutputSink> {
        &self.serial
    }

    /// Where what the guest prints by SBI goes.
    pub fn firmware_output(&self) -> &Arc<dyn OutputSink> {
        &self.firmware.output
    }

    /// Where what it reads by SBI comes from, unless that is the serial port.
    pub fn firmware_input(&self) -> Option<&Arc<dyn InputSink>> {
        self.firmware.input.as_ref()
    }

    /// The ports of the virtio console device, if there is one.
    pub fn ports(&self) -> Option<&Arc<Ports>> {
        self.ports.as_ref()
    }

    /// The pseudo-terminals, in the order serial port, virtio console, ports.
    pub fn terminals(&self) -> &[PseudoTerminal] {
        &self.terminals
    }

    /// Waits for the guest's output to go out, at most for `timeout`. Answers whether all has that is to be waited for.
    pub fn flush(&self, timeout: Duration) -> bool {
        let released = self.release();
        let flushed = self.each(timeout, |output, timeout| {
            output.thread.flush(timeout) || output.manner != Manner::Complete
        });
        released && flushed
    }

    /// Ends all output: what there is goes out within `timeout` or not at all.
    pub fn close(&self, timeout: Duration) {
        self.release();
        self.each(timeout, |output, timeout| output.thread.close(timeout));
    }

    /// What could not be written, of all output.
    pub fn lost(&self) -> Vec<LostOutput> {
        let outputs = self.outputs.iter();
        outputs.filter_map(|output| output.thread.lost()).collect()
    }

    /// The guest ends, or is being started again: from now on until [`power_on`](Self::power_on) no vCPU is held back.
    pub fn power_off(&self) {
        for output in &self.outputs {
            output.thread.set_lossy(true);
        }
    }

    /// The guest begins.
    pub fn power_on(&self) {
        if let Some(merged) = &self.merged {
            merged.restart();
        }
        for output in &self.outputs {
            output.thread.set_lossy(output.manner == Manner::Lossy);
        }
    }

    /// What waits for the end of its line goes out, as far as there is room. Answers whether that is all.
    fn release(&self) -> bool {
        self.merged.as_ref().is_none_or(Merged::release)
    }

    /// Does something to each output, within a common limit of time. Answers whether all did it.
    fn each(&self, timeout: Duration, act: impl Fn(&Output, Duration) -> bool) -> bool {
        let started = Instant::now();
        let left = self.outputs.iter().filter(|output| {
            let timeout = timeout.saturating_sub(started.elapsed());
            !act(output, timeout)
        });
        left.count() == 0
    }
}

#[cfg(test)]
mod tests;
