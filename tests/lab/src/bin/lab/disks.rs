//! Locks on the disk images that hvrun is given.
//!
//! Locks that hvrun takes in the nested host are unknown to this machine: the server of its files passes none on. So the
//! launcher takes the same ones here, for as long as it runs, and two nested hosts cannot write to one image.

use std::path::PathBuf;

use hv_devices::virtio::block::{ImageFormat, OpenError, Raw};

use super::Failure;

/// hvrun's exit code for an image that it cannot open.
const EXIT_HVRUN: u8 = 1;

/// Locks the disk images among hvrun's arguments. What is wrong with them otherwise, hvrun will say.
pub(super) fn lock(arguments: &[String]) -> Result<Vec<Raw>, Failure> {
    let mut disks = Vec::new();
    for (path, read_only) in images(arguments) {
        // Whatever it holds: hvrun looks at that.
        match Raw::open(&path, read_only, ImageFormat::Raw) {
            Ok(disk) => disks.push(disk),
            Err(error @ OpenError::Locked { .. }) => {
                return Err(Failure {
                    message: format!("hvrun: {error}"),
                    code: EXIT_HVRUN,
                });
            }
            Err(_) => {}
        }
    }
    Ok(disks)
}

/// The images named by `--disk FILE[,…]` and `--disk=FILE[,…]`, and whether they are attached read-only.
fn images(arguments: &[String]) -> Vec<(PathBuf, bool)> {
    let mut images = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let value = match argument.strip_prefix("--disk") {
            Some("") => rest.next().map(String::as_str),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        let disk = value.and_then(|value| hvrun_cli::parse_disk(value).ok());
        images.extend(disk.map(|disk| (disk.kind.path, disk.kind.readonly)));
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arguments: &[&str]) -> Vec<(PathBuf, bool)> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        images(&arguments)
    }

    #[test]
    fn images_are_found_in_both_spellings() {
        let arguments = [
            "--kernel",
            "Image",
            "--disk",
            "a.img",
            "--disk=b.img,readonly=on",
            "--disk",
        ];
        assert_eq!(
            found(&arguments),
            [("a.img".into(), false), ("b.img".into(), true)]
        );
        assert_eq!(found(&["--disks", "a.img", "--diskette=b"]), []);
    }

    #[test]
    fn an_image_is_locked_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        std::fs::write(&path, [0; 512]).unwrap();
        let writing = ["--disk".to_owned(), path.display().to_string()];
        let reading = [format!("--disk={},readonly=on", path.display())];
        let held = lock(&writing).unwrap();
        let failure = lock(&reading).unwrap_err();
        assert_eq!(failure.code, EXIT_HVRUN);
        assert!(
            failure.message.starts_with("hvrun: disk image '"),
            "{}",
            failure.message
        );
        drop(held);
        let _held = (lock(&reading).unwrap(), lock(&reading).unwrap());
        assert!(lock(&writing).is_err());
    }

    #[test]
    fn other_errors_are_left_to_hvrun() {
        assert!(lock(&["--disk=/does/not/exist".into()]).unwrap().is_empty());
    }
}
