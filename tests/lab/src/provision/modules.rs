//! Kernel modules in the order in which they load.
//!
//! Debian's packages hold no `modules.dep` (depmod makes it at installation), so the dependencies are read where depmod
//! reads them too: in the `.modinfo` section of each module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::tool;
use super::{Error, KernelFiles, Result};
use crate::cache::{self, fingerprint};

/// Ends a module file that bears a signature (Linux, Documentation/admin-guide/module-signing.rst).
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// The size of `struct module_signature`, which stands before [`SIGNED`]. Its last four bytes are the size of the
/// signature before it, big-endian (Linux, include/linux/module_signature.h).
const SIGNATURE_INFO: usize = 12;

/// What becomes of a module, for the names of cache entries with modules in them.
pub(super) const FORM: &str = "decompressed, without signature";

/// The modules `names` of `kernel`, decompressed and without their signatures, with all that they need, in an order in
/// which insmod can load them.
/// Names of modules that are built into the kernel are accepted and yield nothing.
///
/// # Errors
/// When the kernel has no such module, or a module cannot be read.
pub fn modules_closure(kernel: &KernelFiles, names: &[&str]) -> Result<Vec<PathBuf>> {
    let what = [
        kernel.modules.to_string_lossy().into_owned(),
        names.join(" "),
        FORM.to_owned(),
    ];
    let request = fingerprint(what);
    let entry = cache::obtain("modules", &request, |staging| {
        let mut closure = Closure::new(kernel, &staging.content)?;
        for name in names {
            closure.add(name, Need::Required)?;
        }
        let order = staging.content.join("order");
        fs::write(&order, closure.order.join("\n"))
            .map_err(|error| Error::io("write", &order, error))?;
        Ok(kernel.release.clone())
    })?;
    let order = entry.join("order");
    let names = fs::read_to_string(&order).map_err(|error| Error::io("read", &order, error))?;
    Ok(names.lines().map(|name| entry.join(name)).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// A soft dependency: loaded before if it exists.
    Wanted,
}

struct Closure<'a> {
    kernel: &'a KernelFiles,
    /// Where each module lies, by its name with underscores.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    /// Where decompressed modules go.
    output: &'a Path,
    /// File names of the modules so far, each after those that it needs.
    order: Vec<String>,
    visited: BTreeSet<String>,
}

impl<'a> Closure<'a> {
    fn new(kernel: &'a KernelFiles, output: &'a Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&kernel.modules.join("kernel"), &mut files)?;
        let list = kernel.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(|error| Error::io("read", &list, error))?;
        let builtin = builtin
            .lines()
            .map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self {
            kernel,
            files,
            builtin,
            output,
            order: Vec::new(),
            visited: BTreeSet::new(),
        })
    }

    fn add(&mut self, name: &str, need: Need) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || !self.visited.insert(name.clone()) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name).cloned() else {
            return match need {
                Need::Wanted => Ok(()),
                Need::Required => Err(Error::malformed(
                    &self.kernel.modules,
                    format!("has no module {name}"),
                )),
            };
        };
        let image = decompress(&file)?;
        let info =
            modinfo(&image).ok_or_else(|| Error::malformed(&file, "is not a kernel module"))?;
        for (needed, need) in dependencies(&info) {
            self.add(&needed, need)?;
        }
        let file = format!("{name}.ko");
        let path = self.output.join(&file);
        fs::write(&path, without_signature(&image))
            .map_err(|error| Error::io("write", &path, error))?;
        self.order.push(file);
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let unreadable = |error| Error::io("read", directory, error);
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(".ko"))
        {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// The name under which the kernel knows the module in the file `path`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split_once(".ko")
        .map_or(&*file, |(name, _compression)| name)
        .replace('-', "_")
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let read = || fs::read(path).map_err(|error| Error::io("read", path, error));
    let (program, package) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => {
            let mut image = Vec::new();
            let compressed = read()?;
            let mut reader = flate2::read::GzDecoder::new(&*compressed);
            reader
                .read_to_end(&mut image)
                .map_err(|error| Error::io("decompress", path, error))?;
            return Ok(image);
        }
        _ => return read(),
    };
    let output = tempfile::NamedTempFile::new()
        .map_err(|error| Error::io("create", Path::new("a file"), error))?;
    let to = output
        .reopen()
        .map_err(|error| Error::io("open", output.path(), error))?;
    let mut command = Command::new(tool(program, package)?);
    // Not through `run`, which would take the module for text.
    let status = command.arg("-dc").arg(path).stdout(to).status();
    match status {
        Ok(status) if status.success() => {}
        _ => {
            return Err(Error::malformed(
                path,
                format!("{program} cannot decompress it"),
            ));
        }
    }
    fs::read(output.path()).map_err(|error| Error::io("read", output.path(), error))
}

/// A module without its signature. To check one takes an emulated hart longer than to load the module, and an unsigned
/// module is just as welcome: the kernel only notes that it is.
fn without_signature(module: &[u8]) -> &[u8] {
    let unsigned = || {
        let rest = module.strip_suffix(SIGNED)?;
        let (rest, info) = rest.split_at_checked(rest.len().checked_sub(SIGNATURE_INFO)?)?;
        let size = u32::from_be_bytes(*info.last_chunk()?);
        rest.get(..rest.len().checked_sub(usize::try_from(size).ok()?)?)
    };
    unsigned().unwrap_or(module)
}

/// The `KEY=VALUE` strings of a module's `.modinfo` section.
fn modinfo(image: &[u8]) -> Option<Vec<(&str, &str)>> {
    let section = elf_section(image, b".modinfo")?;
    let strings = section
        .split(|byte| *byte == 0)
        .filter_map(|string| std::str::from_utf8(string).ok());
    Some(
        strings
            .filter_map(|string| string.split_once('='))
            .collect(),
    )
}

/// What the module with this information needs loaded before it: `depends=A,B` and `softdep=pre: C D post: E`. A soft
/// dependency on an algorithm of the kernel's crypto layer names it by alias (`crypto-crc32c`), and the module that
/// provides it everywhere is called `NAME_generic`.
fn dependencies(info: &[(&str, &str)]) -> Vec<(String, Need)> {
    let values = |wanted: &'static str| {
        info.iter()
            .filter(move |(key, _)| *key == wanted)
            .map(|(_, value)| *value)
    };
    let hard = values("depends")
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty());
    let before =
        values("softdep").filter_map(|list| list.split("post:").next()?.split_once("pre:"));
    let soft = before
        .flat_map(|(_, list)| list.split_whitespace())
        .map(|name| {
            name.strip_prefix("crypto-").map_or_else(
                || name.to_owned(),
                |algorithm| format!("{algorithm}_generic"),
            )
        });
    let soft = soft.map(|name| (name, Need::Wanted));
    soft.chain(hard.map(|name| (name.to_owned(), Need::Required)))
        .collect()
}

/// The content of a section of a little-endian ELF64 file (Tool Interface Standard, ELF specification: section
/// headers).
fn elf_section<'a>(image: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let number = |offset: usize, size: usize| -> Option<usize> {
        let bytes = image.get(offset..offset.checked_add(size)?)?;
        usize::try_from(
            bytes
                .iter()
                .rev()
                .fold(0u64, |value, byte| (value << 8) | u64::from(*byte)),
        )
        .ok()
    };
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry_size, count, names_index) = (
        number(0x28, 8)?,
        number(0x3a, 2)?,
        number(0x3c, 2)?,
        number(0x3e, 2)?,
    );
    let header = |index: usize| table.checked_add(index.checked_mul(entry_size)?);
    let content = |header: usize| {
        let (offset, size) = (
            number(header.checked_add(0x18)?, 8)?,
            number(header.checked_add(0x20)?, 8)?,
        );
        image.get(offset..offset.checked_add(size)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let name = names.get(number(header, 4)?..)?;
        let matches = name.strip_prefix(wanted)?.first() == Some(&0);
        matches.then(|| content(header)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF64 file of a null section, `.modinfo` with `info`, and the names of sections.
    fn module(info: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let mut image = vec![0; 0x40];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = 0x40 + info.len() + NAMES.len();
        image[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        image[0x3a..0x40].copy_from_slice(&[0x40, 0, 3, 0, 2, 0]);
        image.extend_from_slice(info);
        image.extend_from_slice(NAMES);
        for (name, offset, size) in [
            (0, 0, 0),
            (1, 0x40, info.len()),
            (10, 0x40 + info.len(), NAMES.len()),
        ] {
            let mut header = [0; 0x40];
            header[0] = name;
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            image.extend_from_slice(&header);
        }
        image
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        let image = module(
            b"license=GPL\0softdep=pre: crypto-crc32c foo post: bar\0depends=jbd2,mbcache,crc16\0",
        );
        let info = modinfo(&image).expect("the section is there");
        let names: Vec<_> = dependencies(&info)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["crc32c_generic", "foo", "jbd2", "mbcache", "crc16"]);
        let info = modinfo(&image)
            .map(|_| vec![("depends", "")])
            .expect("the section is there");
        assert!(dependencies(&info).is_empty());
    }

    #[test]
    fn a_damaged_module_is_refused_at_every_length() {
        let image = module(b"depends=a\0");
        // The end of the last section header, which says nothing that is needed, may be absent.
        for length in 0..image.len() - 0x40 {
            assert!(modinfo(&image[..length]).is_none(), "{length} bytes");
        }
        assert!(modinfo(&image).is_some());
    }

    #[test]
    fn names_have_underscores_and_no_suffix() {
        assert_eq!(
            module_name(Path::new("kernel/drivers/char/virtio-rng.ko.xz")),
            "virtio_rng"
        );
        assert_eq!(module_name(Path::new("ext4.ko")), "ext4");
    }

    #[test]
    fn a_closure_is_ordered_and_leaves_out_what_is_built_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let kernel = directory.path().join("modules/kernel");
        fs::create_dir_all(kernel.join("fs")).expect("a directory");
        let files: [(&str, &[u8]); 3] = [
            ("fs/ext4.ko", b"depends=jbd2,crc16\0"),
            ("fs/jbd2.ko", b"depends=\0"),
            ("a-b.ko", b"depends=ext4,jbd2\0"),
        ];
        for (path, info) in files {
            fs::write(kernel.join(path), module(info)).expect("a file");
        }
        let modules = directory.path().join("modules");
        fs::write(modules.join("modules.builtin"), "kernel/lib/crc16.ko\n").expect("a file");
        let kernel = KernelFiles {
            image: PathBuf::new(),
            modules,
            release: "1".to_owned(),
            version: "1".to_owned(),
            last_green: "1",
        };
        let mut closure = Closure::new(&kernel, directory.path()).expect("it is readable");
        for name in ["a_b", "ext4"] {
            closure.add(name, Need::Required).expect("it is there");
        }
        assert_eq!(closure.order, ["jbd2.ko", "ext4.ko", "a_b.ko"]);
        assert!(closure.add("absent", Need::Required).is_err());
        assert!(closure.add("absent_too", Need::Wanted).is_ok());
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let mut signed = b"the module".to_vec();
        signed.extend_from_slice(b"signature");
        signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        signed.extend_from_slice(SIGNED);
        assert_eq!(without_signature(&signed), b"the module");
        assert_eq!(without_signature(b"the module"), b"the module");
        // A size beyond the file's.
        let size = signed.len() - SIGNED.len() - 1;
        signed[size] = 200;
        assert_eq!(without_signature(&signed), &signed);
        assert_eq!(without_signature(SIGNED), SIGNED);
    }
}
