//! The values of `--disk`, `--net` and `--vsock`, and the placement options that they share.

use hv_vmm::{
    DeviceConfig, DeviceKind, DiskConfig, ImageFormat, Location, NetConfig, OnError, Vhost,
    VirtioVersion, VsockConfig,
};

/// A device, and where it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<K> {
    /// What it is.
    pub kind: K,
    /// Where it is.
    pub location: Location,
}

impl<K: Into<DeviceKind>> Located<K> {
    /// The device of a machine.
    pub fn config(self) -> DeviceConfig {
        DeviceConfig::from(self.kind).location(self.location)
    }
}

/// The parts between single commas; two commas stand for one that belongs to a part.
pub fn split_options(text: &str) -> Vec<String> {
    // A character that no argument can hold stands for the doubled comma meanwhile.
    let text = text.replace(",,", "\0");
    text.split(',')
        .map(|part| part.replace('\0', ","))
        .collect()
}

/// Takes an option that every virtio device has. Answers whether it is one.
pub fn parse_location(option: &str, location: &mut Location) -> Result<bool, String> {
    match option.split_once('=') {
        Some(("slot", number)) => {
            let slot = number.parse().ok().filter(|slot| *slot <= 7);
            location.slot = Some(slot.ok_or("slot= expects a number from 0 to 7")?);
        }
        Some(("virtio", "modern")) => location.version = Some(VirtioVersion::Modern),
        Some(("virtio", "legacy")) => location.version = Some(VirtioVersion::Legacy),
        _ => return Ok(false),
    }
    Ok(true)
}

/// `FILE[,readonly=on|off][,format=raw][,serial=TEXT][,on-error=report|enospc|stop][,slot=N][,virtio=VERSION]`, where `,,` in the
/// path stands for one comma.
pub fn parse_disk(text: &str) -> Result<Located<DiskConfig>, String> {
    let mut path = String::new();
    let mut rest = text;
    let options = loop {
        match rest.split_once(',') {
            None => {
                path.push_str(rest);
                break None;
            }
            Some((head, tail)) => {
                path.push_str(head);
                match tail.strip_prefix(',') {
                    Some(tail) => {
                        path.push(',');
                        rest = tail;
                    }
                    None => break Some(tail),
                }
            }
        }
    };
    if path.is_empty() {
        return Err("expected the path of a disk image".into());
    }
    let mut disk = DiskConfig::new(path);
    let mut location = Location::default();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        if parse_location(option, &mut location)? {
            continue;
        }
        match option.split_once('=') {
            Some(("readonly", "on")) => disk.readonly = true,
            Some(("readonly", "off")) => disk.readonly = false,
            Some(("format", "raw")) => disk.format = ImageFormat::Raw,
            Some(("format", other)) => {
                return Err(format!(
                    "format={other}: hvrun reads raw images only; convert others with 'qemu-img convert -O raw'"
                ));
            }
            Some(("serial", text)) => {
                disk.serial = text.parse().map_err(|error| format!("{error}"))?;
            }
            Some(("on-error", "report")) => disk.on_error = OnError::Report,
            Some(("on-error", "enospc")) => disk.on_error = OnError::HoldNoSpace,
            Some(("on-error", "stop")) => disk.on_error = OnError::Hold,
            Some(("on-error", _)) => {
                return Err("on-error= expects report, enospc or stop".into());
            }
            _ => {
                return Err(format!(
                    "unknown option {option:?}: expected readonly=on, readonly=off, format=raw, serial=TEXT, on-error=report, \
                     on-error=enospc, on-error=stop, slot=0 to 7, virtio=modern or virtio=legacy (a comma in the path is written twice)"
                ));
            }
        }
    }
    Ok(Located {
        kind: disk,
        location,
    })
}

/// `tap=NAME[,mac=ADDRESS][,mtu=BYTES][,vhost=auto|on|off][,slot=N][,virtio=VERSION]`.
pub fn parse_net(text: &str) -> Result<Located<NetConfig>, String> {
    let mut tap = None;
    let mut mac = None;
    let mut mtu = None;
    let mut vhost = Vhost::Auto;
    let mut location = Location::default();
    for option in text.split(',') {
        if parse_location(option, &mut location)? {
            continue;
        }
        match option.split_once('=') {
            Some(("tap", "")) => {
                return Err("tap= expects the name of an interface, such as tap0".into());
            }
            Some(("tap", name)) => tap = Some(name.to_owned()),
            Some(("mac", text)) => {
                mac = Some(text.parse().map_err(|error| format!("{error}"))?);
            }
            Some(("mtu", number)) => {
                // An Internet host takes packets of 68 bytes (RFC 791), and the configuration space has 16 bits.
                let bytes = number.parse().ok().filter(|bytes: &u16| *bytes >= 68);
                mtu = Some(bytes.ok_or("mtu= expects a number of bytes from 68 to 65535")?);
            }
            Some(("vhost", "auto")) => vhost = Vhost::Auto,
            Some(("vhost", "on")) => vhost = Vhost::On,
            Some(("vhost", "off")) => vhost = Vhost::Off,
            _ => {
                return Err(format!(
                    "unknown option {option:?}: expected tap=NAME, mac=ADDRESS, mtu=BYTES, vhost=auto, on or off, slot=0 to 7, virtio=modern or virtio=legacy"
                ));
            }
        }
    }
    let tap = tap.ok_or("expected tap=NAME, the name of a tap interface of the host")?;
    let mut net = NetConfig::tap(tap);
    net.mac = mac;
    net.mtu = mtu;
    net.vhost = vhost;
    Ok(Located {
        kind: net,
        location,
    })
}

/// `cid=NUMBER,path=PATH[,slot=N][,virtio=VERSION]`, where `,,` in the path stands for one comma.
pub fn parse_vsock(text: &str) -> Result<Located<VsockConfig>, String> {
    let mut cid = None;
    let mut path = None;
    let mut location = Location::default();
    for option in split_options(text) {
        if parse_location(&option, &mut location)? {
            continue;
        }
        match option.split_once('=') {
            Some(("cid", number)) => {
                let number = number.parse().ok();
                let number = number.filter(|cid| (3..u32::MAX).contains(cid));
                cid = Some(number.ok_or(
                    "cid= expects the guest's address, a number from 3 to 4294967294 (0 to 2 are the hypervisor's and the host's)",
                )?);
            }
            Some(("path", "")) => {
                return Err(
                    "path= expects the path of the host's socket, such as guest.vsock".into(),
                );
            }
            Some(("path", text)) => path = Some(text.to_owned()),
            _ => {
                return Err(format!(
                    "unknown option {option:?}: expected cid=NUMBER, path=PATH, slot=0 to 7, virtio=modern or virtio=legacy (a comma \
                     in the path is written twice)"
                ));
            }
        }
    }
    let cid = cid.ok_or("expected cid=NUMBER, the guest's address, such as cid=3")?;
    let path = path.ok_or("expected path=PATH, where the host's socket is to be")?;
    Ok(Located {
        kind: VsockConfig::new(cid, path),
        location,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vsocks() {
        let vsock = parse_vsock("path=a,,b.sock,cid=3,slot=5").unwrap();
        assert_eq!(vsock.kind, VsockConfig::new(3, "a,b.sock"));
        assert_eq!(vsock.location.slot, Some(5));
        let last = parse_vsock("cid=4294967294,path=x").unwrap();
        assert_eq!(last.kind.cid, u32::MAX - 1);
        for (wrong, part) in [
            ("", "unknown option"),
            ("3", "unknown option"),
            ("cid=3", "expected path="),
            ("path=x", "expected cid="),
            ("cid=3,path=", "path= expects"),
            ("cid=,path=x", "cid= expects"),
            ("cid=0,path=x", "cid= expects"),
            ("cid=1,path=x", "cid= expects"),
            ("cid=2,path=x", "cid= expects"),
            ("cid=-1,path=x", "cid= expects"),
            ("cid=0xffffffff,path=x", "cid= expects"),
            ("cid=4294967295,path=x", "cid= expects"),
            ("cid=4294967296,path=x", "cid= expects"),
            ("cid=3,path=x,slot=8", "slot= expects"),
            ("cid=3,path=x,port=1", "unknown option"),
        ] {
            let error = parse_vsock(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn disks() {
        let disk = |path: &str, readonly, serial: &str| {
            let mut disk = DiskConfig::new(path);
            disk.readonly = readonly;
            disk.serial = serial.parse().unwrap();
            Located {
                kind: disk,
                location: Location::default(),
            }
        };
        assert_eq!(parse_disk("a.img"), Ok(disk("a.img", false, "")));
        assert_eq!(parse_disk("a.img,readonly=on"), Ok(disk("a.img", true, "")));
        assert_eq!(
            parse_disk("a,,b.img,serial=S 1,readonly=off"),
            Ok(disk("a,b.img", false, "S 1"))
        );
        let placed = parse_disk("a.img,slot=7,virtio=legacy").unwrap();
        assert_eq!(placed.location.slot, Some(7));
        assert_eq!(placed.location.version, Some(VirtioVersion::Legacy));
        let raw = parse_disk("a.img,format=raw").unwrap();
        assert_eq!(raw.kind.format, ImageFormat::Raw);
        for (policy, on_error) in [
            ("", OnError::Report),
            (",on-error=report", OnError::Report),
            (",on-error=enospc", OnError::HoldNoSpace),
            (",on-error=stop", OnError::Hold),
        ] {
            let parsed = parse_disk(&format!("a.img{policy}")).unwrap();
            assert_eq!(parsed.kind.on_error, on_error, "{policy}");
        }
        for wrong in [
            "a.img,on-error",
            "a.img,on-error=",
            "a.img,on-error=ignore",
            "a.img,format=",
            "a.img,format=qcow2",
            "a.img,slot=8",
            "a.img,slot=-1",
            "a.img,slot=",
            "a.img,virtio=1.0",
            "",
            ",readonly=on",
            "a.img,",
            "a.img,ro",
            "a.img,readonly=yes",
            "a.img,serial=123456789012345678901",
        ] {
            assert!(parse_disk(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nets() {
        let net = parse_net("tap=tap0,mac=52:54:00:12:34:56,slot=3").unwrap();
        assert_eq!(
            (net.kind.tap.as_str(), net.location.slot),
            ("tap0", Some(3))
        );
        assert_eq!(net.kind.mac.unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!(parse_net("tap=tap0").unwrap().kind.mac, None);
        assert_eq!(parse_net("tap=tap0").unwrap().kind.mtu, None);
        assert_eq!(parse_net("tap=tap0,mtu=68").unwrap().kind.mtu, Some(68));
        assert_eq!(
            parse_net("tap=tap0,mtu=65535").unwrap().kind.mtu,
            Some(65535)
        );
        assert_eq!(parse_net("tap=tap0").unwrap().kind.vhost, Vhost::Auto);
        assert_eq!(
            parse_net("vhost=off,tap=tap0").unwrap().kind.vhost,
            Vhost::Off
        );
        for wrong in [
            "",
            "tap=",
            "tap0",
            "mac=52:54:00:12:34:56",
            "tap=tap0,mac=x",
            "tap=tap0,mtu=67",
            "tap=tap0,mtu=65536",
            "tap=tap0,mtu=",
            "tap=tap0,slot=8",
            "tap=tap0,vhost=yes",
        ] {
            assert!(parse_net(wrong).is_err(), "{wrong}");
        }
    }
}
