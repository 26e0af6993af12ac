//! The messages.

use std::fmt;

use super::codec::{Error, Reader, Result, Writer};

/// The size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What one of a process's three standard streams is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe to the controller.
    Pipe,
    /// The process's terminal, which there is one of for all its streams. Needs [`Spawn::terminal`].
    Terminal,
    /// A file of the nested host: read from its start, or created or truncated and written.
    File(String),
}

/// A process to start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spawn {
    /// The program, looked up in `PATH` of [`Spawn::env`] if without a slash, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Root directory, if not the agent's.
    pub root: Option<String>,
    /// Working directory, within [`Spawn::root`].
    pub cwd: String,
    /// User and group, if not root.
    pub user: Option<(u32, u32)>,
    /// Size of the terminal, if the process gets one. It then is the controlling terminal of the process.
    pub terminal: Option<WindowSize>,
    /// Standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Requests of ioctl(2) that the process and its children are refused, each with an error number.
    pub refused_ioctls: Vec<(u32, u16)>,
}

/// A file system to mount, as mount(2) takes it. The target is created if it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Device, tag or directory.
    pub source: String,
    /// Where to.
    pub target: String,
    /// Name of the file system; empty for a bind mount.
    pub kind: String,
    /// MS_… flags of mount(2).
    pub flags: u64,
    /// Options of the file system.
    pub options: String,
}

/// Where output of a process came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output, if a pipe.
    Stdout,
    /// Standard error, if a pipe.
    Stderr,
    /// The terminal: everything that was written to it by whichever stream, and its echo.
    Terminal,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl ExitStatus {
    /// Whether the process ended with exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit code, if the process was not ended by a signal.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A message to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a process. Answered by [`Event::Started`] or [`Event::Failed`].
    Spawn(Box<Spawn>),
    /// Bytes for a process's standard input: its pipe, or else its terminal.
    Input(Vec<u8>),
    /// No more input follows. A pipe is closed; a terminal stays as it is.
    EndInput,
    /// So many more bytes of output may be sent.
    Credit(Stream, u32),
    /// Nobody takes this output any more: its pipe is closed, and the process finds that when it writes.
    CloseOutput(Stream),
    /// Send a signal to a process.
    Signal(i32),
    /// The terminal's window changed.
    Resize(WindowSize),
    /// Forget a process. If it still runs, it and its process group are killed. Nothing more is sent about it.
    Release,
    /// Mount a file system. Answered by [`Event::Done`] or [`Event::Failed`].
    Mount(Mount),
    /// Switch the nested host off. Not answered.
    PowerOff,
}

/// A message from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent serves. The first message, with id 0.
    Ready {
        /// [`super::VERSION`] of the agent.
        version: u32,
        /// Release of the nested host's kernel.
        release: String,
    },
    /// The process runs, under this process id.
    Started(u32),
    /// The request was carried out.
    Done,
    /// The request could not be carried out, and why.
    Failed(String),
    /// Output of a process.
    Output(Stream, Vec<u8>),
    /// There will be no more output on this stream.
    EndOutput(Stream),
    /// So many more bytes of input may be sent.
    InputCredit(u32),
    /// The process does not take input any more; what was not taken is lost.
    InputClosed,
    /// The process ended. Output may still follow.
    Exited(ExitStatus),
}

impl Stream {
    fn write(self, writer: &mut Writer) {
        writer.u8(match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Terminal => 3,
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            3 => Ok(Self::Terminal),
            _ => Err(Error::BadValue("stream")),
        }
    }
}

impl WindowSize {
    fn write(self, writer: &mut Writer) {
        writer.u16(self.rows);
        writer.u16(self.columns);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            rows: reader.u16()?,
            columns: reader.u16()?,
        })
    }
}

impl Stdio {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Null => writer.u8(0),
            Self::Pipe => writer.u8(1),
            Self::Terminal => writer.u8(2),
            Self::File(path) => {
                writer.u8(3);
                writer.string(path);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            0 => Ok(Self::Null),
            1 => Ok(Self::Pipe),
            2 => Ok(Self::Terminal),
            3 => reader.string("file").map(Self::File),
            _ => Err(Error::BadValue("stdio")),
        }
    }
}

impl Spawn {
    fn write(&self, writer: &mut Writer) {
        writer.list(&self.argv, |writer, text| writer.string(text));
        writer.list(&self.env, |writer, (name, value)| {
            writer.string(name);
            writer.string(value);
        });
        writer.option(self.root.as_ref(), |writer, root| writer.string(root));
        writer.string(&self.cwd);
        writer.option(self.user.as_ref(), |writer, (user, group)| {
            writer.u32(*user);
            writer.u32(*group);
        });
        writer.option(self.terminal.as_ref(), |writer, size| size.write(writer));
        for stdio in &self.stdio {
            stdio.write(writer);
        }
        writer.list(&self.refused_ioctls, |writer, (request, errno)| {
            writer.u32(*request);
            writer.u16(*errno);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            argv: reader.list(|reader| reader.string("argv"))?,
            env: reader.list(|reader| Ok((reader.string("env")?, reader.string("env")?)))?,
            root: reader.option("root", |reader| reader.string("root"))?,
            cwd: reader.string("cwd")?,
            user: reader.option("user", |reader| Ok((reader.u32()?, reader.u32()?)))?,
            terminal: reader.option("terminal", WindowSize::read)?,
            stdio: [
                Stdio::read(reader)?,
                Stdio::read(reader)?,
                Stdio::read(reader)?,
            ],
            refused_ioctls: reader.list(|reader| Ok((reader.u32()?, reader.u16()?)))?,
        })
    }
}

impl Mount {
    fn write(&self, writer: &mut Writer) {
        writer.string(&self.source);
        writer.string(&self.target);
        writer.string(&self.kind);
        writer.u64(self.flags);
        writer.string(&self.options);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            source: reader.string("source")?,
            target: reader.string("target")?,
            kind: reader.string("kind")?,
            flags: reader.u64()?,
            options: reader.string("options")?,
        })
    }
}

impl ExitStatus {
    fn write(self, writer: &mut Writer) {
        let (how, number) = match self {
            Self::Code(code) => (0, code),
            Self::Signal(signal) => (1, signal),
        };
        writer.u8(how);
        writer.i32(number);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            0 => reader.i32().map(Self::Code),
            1 => reader.i32().map(Self::Signal),
            _ => Err(Error::BadValue("exit status")),
        }
    }
}

impl Request {
    /// The frame of this message, its length field included.
    ///
    /// # Errors
    /// [`Error::TooLong`], for a message that does not fit into a frame.
    pub fn encode(&self, id: u32) -> Result<Vec<u8>> {
        let start = |kind| Writer::new(kind, id);
        match self {
            Self::Spawn(spawn) => {
                let mut writer = start(0x01);
                spawn.write(&mut writer);
                writer
            }
            Self::Input(data) => {
                let mut writer = start(0x02);
                writer.bytes(data);
                writer
            }
            Self::EndInput => start(0x03),
            Self::Credit(stream, bytes) => {
                let mut writer = start(0x04);
                stream.write(&mut writer);
                writer.u32(*bytes);
                writer
            }
            Self::Signal(signal) => {
                let mut writer = start(0x05);
                writer.i32(*signal);
                writer
            }
            Self::Resize(size) => {
                let mut writer = start(0x06);
                size.write(&mut writer);
                writer
            }
            Self::Release => start(0x07),
            Self::Mount(mount) => {
                let mut writer = start(0x08);
                mount.write(&mut writer);
                writer
            }
            Self::PowerOff => start(0x09),
            Self::CloseOutput(stream) => {
                let mut writer = start(0x0a);
                stream.write(&mut writer);
                writer
            }
        }
        .finish()
    }

    /// Reads a frame, without its length field.
    pub(super) fn decode(frame: &[u8]) -> Result<(u32, Self)> {
        let mut reader = Reader::new(frame);
        let kind = reader.u8()?;
        let id = reader.u32()?;
        let request = match kind {
            0x01 => Self::Spawn(Box::new(Spawn::read(&mut reader)?)),
            0x02 => Self::Input(reader.bytes()?),
            0x03 => Self::EndInput,
            0x04 => Self::Credit(Stream::read(&mut reader)?, reader.u32()?),
            0x05 => Self::Signal(reader.i32()?),
            0x06 => Self::Resize(WindowSize::read(&mut reader)?),
            0x07 => Self::Release,
            0x08 => Self::Mount(Mount::read(&mut reader)?),
            0x09 => Self::PowerOff,
            0x0a => Self::CloseOutput(Stream::read(&mut reader)?),
            kind => return Err(Error::UnknownKind(kind)),
        };
        reader.finish()?;
        Ok((id, request))
    }
}

impl Event {
    /// The frame of this message, its length field included.
    ///
    /// # Errors
    /// [`Error::TooLong`], for a message that does not fit into a frame.
    pub fn encode(&self, id: u32) -> Result<Vec<u8>> {
        let start = |kind| Writer::new(kind, id);
        match self {
            Self::Ready { version, release } => {
                let mut writer = start(0x81);
                writer.u32(*version);
                writer.string(release);
                writer
            }
            Self::Started(pid) => {
                let mut writer = start(0x82);
                writer.u32(*pid);
                writer
            }
            Self::Done => start(0x83),
            Self::Failed(why) => {
                let mut writer = start(0x84);
                writer.string(why);
                writer
            }
            Self::Output(stream, data) => {
                let mut writer = start(0x85);
                stream.write(&mut writer);
                writer.bytes(data);
                writer
            }
            Self::EndOutput(stream) => {
                let mut writer = start(0x86);
                stream.write(&mut writer);
                writer
            }
            Self::InputCredit(bytes) => {
                let mut writer = start(0x87);
                writer.u32(*bytes);
                writer
            }
            Self::InputClosed => start(0x88),
            Self::Exited(status) => {
                let mut writer = start(0x89);
                status.write(&mut writer);
                writer
            }
        }
        .finish()
    }

    /// Reads a frame, without its length field.
    pub(super) fn decode(frame: &[u8]) -> Result<(u32, Self)> {
        let mut reader = Reader::new(frame);
        let kind = reader.u8()?;
        let id = reader.u32()?;
        let event = match kind {
            0x81 => Self::Ready {
                version: reader.u32()?,
                release: reader.string("release")?,
            },
            0x82 => Self::Started(reader.u32()?),
            0x83 => Self::Done,
            0x84 => Self::Failed(reader.string("reason")?),
            0x85 => Self::Output(Stream::read(&mut reader)?, reader.bytes()?),
            0x86 => Self::EndOutput(Stream::read(&mut reader)?),
            0x87 => Self::InputCredit(reader.u32()?),
            0x88 => Self::InputClosed,
            0x89 => Self::Exited(ExitStatus::read(&mut reader)?),
            kind => return Err(Error::UnknownKind(kind)),
        };
        reader.finish()?;
        Ok((id, event))
    }
}
