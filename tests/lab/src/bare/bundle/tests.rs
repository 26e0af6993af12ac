use super::*;

fn guest(name: &str, directory: &Path) -> Guest {
    for file in ["Image", "initrd"] {
        fs::write(directory.join(file), file).unwrap();
    }
    Guest {
        name: name.into(),
        harts: 2,
        memory_mib: 128,
        identity: false,
        kernel: "Image".into(),
        initrd: None,
        device_tree: None,
        command_line: None,
        getchar_empty: -1,
        devices: Vec::new(),
    }
}

fn compiled(source: &str, directory: &Path) -> PathBuf {
    let (source_file, bundle) = (directory.join("guests.dts"), directory.join("bundle"));
    fs::write(&source_file, source).unwrap();
    compile(&source_file, &[], &bundle).unwrap();
    bundle
}

#[test]
fn everything_that_is_said_is_in_the_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let said = Guest {
        identity: true,
        initrd: Some(path.join("initrd")),
        device_tree: Some("Image".into()),
        command_line: Some("a=\"b\\c\" ä\t\x7f".into()),
        getchar_empty: 0,
        devices: vec![Device {
            name: "disk0".into(),
            host: "/soc/virtio_mmio@10001000".into(),
            slot: Some(7),
        }],
        ..guest("linux", path)
    };
    let bundle = compiled(&source(&[said], true), path);
    let blob = fs::read(&bundle).unwrap();
    let tree = Fdt::new(&blob).unwrap();
    let root = tree.root();
    assert!(root.property("statistics").is_some());
    let node = root.child("guests").unwrap().child("linux").unwrap();
    let value = |name| node.property(name).unwrap().value().to_vec();
    assert_eq!(value("harts"), [0, 0, 0, 2]);
    assert_eq!(value("memory"), [0, 0, 0, 128]);
    assert!(value("identity").is_empty());
    assert_eq!(value("kernel"), b"Image");
    assert_eq!(value("initrd"), b"initrd");
    assert_eq!(value("device-tree"), b"Image");
    assert_eq!(value("command-line"), "a=\"b\\c\" ä\t\x7f\0".as_bytes());
    assert_eq!(value("getchar-empty"), [0; 4]);
    let disk = node.child("devices").unwrap().child("disk0").unwrap();
    let host = disk.property("host").unwrap();
    assert_eq!(host.value(), b"/soc/virtio_mmio@10001000\0");
    assert_eq!(disk.property("slot").unwrap().value(), [0, 0, 0, 7]);
}

#[test]
fn what_is_not_said_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let guests = [
        guest("one", directory.path()),
        guest("two", directory.path()),
    ];
    let text = source(&guests, false);
    for word in [
        "statistics",
        "identity",
        "initrd",
        "command-line",
        "getchar",
        "devices",
    ] {
        assert!(!text.contains(word), "{text}");
    }
    let bundle = compiled(&text, directory.path());
    let needs = Needs::of(&bundle).unwrap();
    assert_eq!((needs.harts, needs.memory_mib), (4, 2 * 128 + 640 + 2));
}

#[test]
fn needs_count_what_is_not_said() {
    let directory = tempfile::tempdir().unwrap();
    let text = "/dts-v1/; / { compatible = \"hvrun,bundle\"; guests {
        a { host-harts = <0 1 2>; }; b { memory = <100>; }; }; };";
    let needs = Needs::of(&compiled(text, directory.path())).unwrap();
    assert_eq!((needs.harts, needs.memory_mib), (4, 256 + 100 + 640 + 2));
}

#[test]
fn other_files_are_no_bundles() {
    let directory = tempfile::tempdir().unwrap();
    let text = compiled("/dts-v1/; / { compatible = \"x\"; };", directory.path());
    let problem = Needs::of(&text).unwrap_err().to_string();
    assert!(problem.contains("no bundle"), "{problem}");
    fs::write(&text, "/dts-v1/;").unwrap();
    let problem = Needs::of(&text).unwrap_err().to_string();
    assert!(problem.contains("cargo lab bundle"), "{problem}");
    assert!(Needs::of(Path::new("/does/not/exist")).is_err());
}

#[test]
fn a_mistake_in_a_source_is_told_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("guests.dts");
    fs::write(&source, "/dts-v1/;\n/ {\n\tguests {;\n};\n").unwrap();
    let bundle = directory.path().join("bundle");
    let problem = compile(&source, &[], &bundle).unwrap_err().to_string();
    assert!(problem.contains("guests.dts:3"), "{problem}");
    fs::write(&source, "/dts-v1/;\n/ { x = /incbin/(\"none\"); };\n").unwrap();
    let problem = compile(&source, &[], &bundle).unwrap_err().to_string();
    assert!(problem.contains("none"), "{problem}");
}
