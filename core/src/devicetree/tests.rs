//! The blob read back, and compared with what the bindings and the memory map say.

use alloc::collections::BTreeMap;
use alloc::vec;

use fdt::Fdt;
use fdt::node::FdtNode;
use proptest::prelude::*;

use super::*;
use crate::board;
use crate::isa::Isa;
use crate::machine::{Hart, MmuType};
use crate::node::{DeviceNode, Node, Trigger};

pub(super) const PLIC: InterruptController = InterruptController::Plic { sources: 95 };
const AIA: InterruptController = InterruptController::Aia {
    sources: 63,
    ids: 255,
};

pub(super) fn machine(harts: u32, interrupts: InterruptController) -> Machine {
    Machine {
        harts,
        hart: Hart {
            isa: Isa::from_names("m a f d c zicbom zicboz sstc ssaia smaia".split(' ')).unwrap(),
            mmu: MmuType::Sv48,
            cbom_block_size: Some(64),
            cboz_block_size: Some(128),
            cbop_block_size: Some(32),
        },
        timebase_frequency: 10_000_000,
        ram_base: layout::RAM_BASE,
        ram_size: 0x2000_0000,
        interrupts,
        hypervisor: "linux,kvm",
        devices: board::devices(),
        command_line: String::from("console=ttyS0 root=/dev/vda rw"),
        initrd: Some(0x1_9000_0000..0x1_9123_4567),
        rng_seed: Some([0xa7; 32]),
    }
}

/// A tree read back: the properties of each node by its path, and the paths in the order of the blob.
struct Nodes {
    properties: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    order: Vec<String>,
}

impl Nodes {
    fn of(machine: &Machine) -> Self {
        let blob = build(machine).unwrap();
        let tree = Fdt::new(&blob).unwrap();
        let mut nodes = Self {
            properties: BTreeMap::new(),
            order: Vec::new(),
        };
        nodes.take("", tree.find_node("/").unwrap());
        nodes
    }

    fn take(&mut self, path: &str, node: FdtNode<'_, '_>) {
        let properties = node
            .properties()
            .map(|property| (property.name.to_string(), property.value.to_vec()));
        assert!(
            self.properties
                .insert(path.to_string(), properties.collect())
                .is_none(),
            "two nodes are {path}"
        );
        self.order.push(path.to_string());
        for child in node.children() {
            self.take(&format!("{path}/{}", child.name), child);
        }
    }

    fn get(&self, path: &str, property: &str) -> Option<&[u8]> {
        let node = self
            .properties
            .get(path)
            .unwrap_or_else(|| panic!("no node {path}"));
        node.get(property).map(Vec::as_slice)
    }

    fn bytes(&self, path: &str, property: &str) -> &[u8] {
        self.get(path, property)
            .unwrap_or_else(|| panic!("no {property} in {path}"))
    }

    fn cells(&self, path: &str, property: &str) -> Vec<u32> {
        let cells = self.bytes(path, property).chunks(4);
        cells
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    fn cell(&self, path: &str, property: &str) -> u32 {
        u32::from_be_bytes(self.bytes(path, property).try_into().unwrap())
    }

    fn double(&self, path: &str, property: &str) -> u64 {
        u64::from_be_bytes(self.bytes(path, property).try_into().unwrap())
    }

    fn strings(&self, path: &str, property: &str) -> Vec<&str> {
        let text = core::str::from_utf8(self.bytes(path, property)).unwrap();
        text.strip_suffix('\0').unwrap().split('\0').collect()
    }

    fn flag(&self, path: &str, property: &str) -> bool {
        self.get(path, property).is_some_and(<[u8]>::is_empty)
    }

    /// Address and size, of two cells each.
    fn reg(&self, path: &str) -> (u64, u64) {
        let (address, size) = self.bytes(path, "reg").split_at(8);
        (
            u64::from_be_bytes(address.try_into().unwrap()),
            u64::from_be_bytes(size.try_into().unwrap()),
        )
    }

    /// The node that a phandle refers to.
    fn target(&self, phandle: u32) -> &str {
        let mut targets = self.properties.iter().filter(|(_, properties)| {
            properties
                .get("phandle")
                .is_some_and(|value| *value == phandle.to_be_bytes())
        });
        let target = targets
            .next()
            .unwrap_or_else(|| panic!("no node has phandle {phandle}"));
        assert!(targets.next().is_none());
        target.0
    }
}

#[test]
fn the_root_says_what_the_board_is() {
    let nodes = Nodes::of(&machine(1, PLIC));
    assert_eq!(nodes.strings("", "compatible"), ["riscv-virtio"]);
    assert_eq!(nodes.strings("", "model"), ["riscv-virtio,hvrun"]);
    assert_eq!(
        (
            nodes.cell("", "#address-cells"),
            nodes.cell("", "#size-cells")
        ),
        (2, 2)
    );
    assert_eq!(
        nodes.strings("/aliases", "serial0"),
        ["/soc/serial@10000000"]
    );
}

#[test]
fn a_guest_can_tell_that_it_is_one() {
    let kvm = machine(1, PLIC);
    let nodes = Nodes::of(&kvm);
    // systemd-detect-virt compares the whole property with this.
    assert_eq!(nodes.bytes("/hypervisor", "compatible"), b"linux,kvm\0");
    let nodes = Nodes::of(&Machine {
        hypervisor: "hvrun,hv-bare",
        ..kvm
    });
    assert_eq!(
        nodes.strings("/hypervisor", "compatible"),
        ["hvrun,hv-bare"]
    );
}

#[test]
fn memory_begins_where_ram_does_and_may_be_large() {
    for size in [0x800_0000, 0x40_0000_0000] {
        let nodes = Nodes::of(&Machine {
            ram_size: size,
            ..machine(1, PLIC)
        });
        assert_eq!(nodes.strings("/memory@80000000", "device_type"), ["memory"]);
        assert_eq!(nodes.reg("/memory@80000000"), (0x8000_0000, size));
    }
}

#[test]
fn the_kernel_is_told_what_it_was_booted_with() {
    let nodes = Nodes::of(&machine(1, PLIC));
    assert_eq!(
        nodes.strings("/chosen", "bootargs"),
        ["console=ttyS0 root=/dev/vda rw"]
    );
    assert_eq!(
        nodes.strings("/chosen", "stdout-path"),
        ["/soc/serial@10000000"]
    );
    assert_eq!(nodes.double("/chosen", "linux,initrd-start"), 0x1_9000_0000);
    assert_eq!(nodes.double("/chosen", "linux,initrd-end"), 0x1_9123_4567);
    assert_eq!(nodes.bytes("/chosen", "rng-seed"), [0xa7; 32]);
    assert!(
        nodes.properties.contains_key("/soc/serial@10000000"),
        "where the standard output is to be"
    );
}

#[test]
fn what_there_is_not_is_not_mentioned() {
    let bare = Machine {
        command_line: String::new(),
        initrd: None,
        rng_seed: None,
        ..machine(1, PLIC)
    };
    let nodes = Nodes::of(&bare);
    assert_eq!(
        nodes.properties["/chosen"].keys().collect::<Vec<_>>(),
        ["stdout-path"]
    );
}

#[test]
fn memory_can_begin_elsewhere() {
    let nodes = Nodes::of(&Machine {
        ram_base: GuestPhysAddr(0x1_4000_0000),
        ..machine(1, PLIC)
    });
    assert_eq!(nodes.reg("/memory@140000000"), (0x1_4000_0000, 0x2000_0000));
    assert!(!nodes.properties.contains_key("/memory@80000000"));
}

#[test]
fn every_hart_is_a_cpu() {
    let nodes = Nodes::of(&machine(20, AIA));
    assert_eq!(
        (
            nodes.cell("/cpus", "#address-cells"),
            nodes.cell("/cpus", "#size-cells")
        ),
        (1, 0)
    );
    assert_eq!(nodes.cell("/cpus", "timebase-frequency"), 10_000_000);
    for hart in 0..20 {
        let cpu = format!("/cpus/cpu@{hart:x}");
        assert_eq!(nodes.strings(&cpu, "device_type"), ["cpu"]);
        assert_eq!(nodes.strings(&cpu, "compatible"), ["riscv"]);
        assert_eq!(nodes.strings(&cpu, "status"), ["okay"]);
        assert_eq!(nodes.cell(&cpu, "reg"), hart);
        assert_eq!(nodes.strings(&cpu, "mmu-type"), ["riscv,sv48"]);
        assert_eq!(
            nodes.strings(&cpu, "riscv,isa"),
            ["rv64imafdc_zicbom_zicboz_ssaia_sstc_smaia"]
        );
        assert_eq!(nodes.strings(&cpu, "riscv,isa-base"), ["rv64i"]);
        assert_eq!(
            nodes.strings(&cpu, "riscv,isa-extensions"),
            [
                "i", "m", "a", "f", "d", "c", "zicbom", "zicboz", "ssaia", "sstc", "smaia"
            ]
        );
        let interrupts = format!("{cpu}/interrupt-controller");
        assert_eq!(nodes.strings(&interrupts, "compatible"), ["riscv,cpu-intc"]);
        assert!(nodes.flag(&interrupts, "interrupt-controller"));
        assert_eq!(nodes.cell(&interrupts, "#interrupt-cells"), 1);
        let core = nodes.cell(&format!("/cpus/cpu-map/cluster0/core{hart}"), "cpu");
        assert_eq!(nodes.target(core), cpu);
    }
    assert!(!nodes.properties.contains_key("/cpus/cpu@14"));
}

#[test]
fn a_machine_with_a_plic_has_no_aia_extensions() {
    let nodes = Nodes::of(&machine(1, PLIC));
    assert_eq!(
        nodes.strings("/cpus/cpu@0", "riscv,isa"),
        ["rv64imafdc_zicbom_zicboz_sstc"]
    );
    let extensions = nodes.strings("/cpus/cpu@0", "riscv,isa-extensions");
    assert!(!extensions.contains(&"ssaia") && !extensions.contains(&"smaia"));
}

#[test]
fn block_sizes_are_those_of_extensions_that_there_are() {
    let nodes = Nodes::of(&machine(1, PLIC));
    assert_eq!(nodes.cell("/cpus/cpu@0", "riscv,cbom-block-size"), 64);
    assert_eq!(nodes.cell("/cpus/cpu@0", "riscv,cboz-block-size"), 128);
    assert_eq!(
        nodes.get("/cpus/cpu@0", "riscv,cbop-block-size"),
        None,
        "there is no Zicbop"
    );

    let mut machine = machine(1, PLIC);
    machine.hart.isa = Isa::from_names(["zicbop", "zicbom"]).unwrap();
    machine.hart.cbom_block_size = None;
    let nodes = Nodes::of(&machine);
    assert_eq!(nodes.cell("/cpus/cpu@0", "riscv,cbop-block-size"), 32);
    assert_eq!(
        nodes.get("/cpus/cpu@0", "riscv,cbom-block-size"),
        None,
        "its size is not known"
    );
}

#[test]
fn the_mmu_type_is_that_of_the_hart() {
    for (mmu, value) in [
        (MmuType::Sv39, "riscv,sv39"),
        (MmuType::Sv48, "riscv,sv48"),
        (MmuType::Sv57, "riscv,sv57"),
    ] {
        let mut machine = machine(1, PLIC);
        machine.hart.mmu = mmu;
        assert_eq!(
            Nodes::of(&machine).strings("/cpus/cpu@0", "mmu-type"),
            [value]
        );
    }
    let mut machine = machine(1, PLIC);
    machine.hart.mmu = MmuType::Bare;
    assert_eq!(Nodes::of(&machine).get("/cpus/cpu@0", "mmu-type"), None);
}

#[test]
fn the_plic_interrupts_the_supervisor_of_each_hart() {
    let nodes = Nodes::of(&machine(3, PLIC));
    let plic = "/soc/interrupt-controller@c000000";
    assert_eq!(
        nodes.strings(plic, "compatible"),
        ["sifive,plic-1.0.0", "riscv,plic0"]
    );
    assert_eq!(nodes.reg(plic), (0xc00_0000, 0x400_0000));
    assert!(nodes.flag(plic, "interrupt-controller"));
    assert_eq!(nodes.cell(plic, "#interrupt-cells"), 1);
    assert_eq!(nodes.cell(plic, "#address-cells"), 0);
    assert_eq!(nodes.cell(plic, "riscv,ndev"), 95);
    let contexts = nodes.cells(plic, "interrupts-extended");
    assert_eq!(contexts.len(), 3 * 4);
    for (hart, contexts) in contexts.chunks(4).enumerate() {
        let interrupts = format!("/cpus/cpu@{hart}/interrupt-controller");
        assert_eq!(
            (nodes.target(contexts[0]), contexts[1]),
            (interrupts.as_str(), 0xffff_ffff)
        );
        assert_eq!(
            (nodes.target(contexts[2]), contexts[3]),
            (interrupts.as_str(), 9)
        );
    }
    assert!(
        !nodes
            .properties
            .contains_key("/soc/interrupt-controller@28000000")
    );
    assert!(
        !nodes
            .properties
            .contains_key("/soc/interrupt-controller@d000000")
    );
}

#[test]
fn the_aplic_sends_messages_to_the_imsic_of_each_hart() {
    let nodes = Nodes::of(&machine(3, AIA));
    let aplic = "/soc/interrupt-controller@d000000";
    let imsics = "/soc/interrupt-controller@28000000";
    assert_eq!(
        nodes.strings(aplic, "compatible"),
        ["qemu,aplic", "riscv,aplic"]
    );
    assert_eq!(nodes.reg(aplic), (0xd00_0000, 0x4000));
    assert!(nodes.flag(aplic, "interrupt-controller"));
    assert_eq!(nodes.cell(aplic, "#interrupt-cells"), 2);
    assert_eq!(nodes.cell(aplic, "riscv,num-sources"), 63);
    assert_eq!(nodes.target(nodes.cell(aplic, "msi-parent")), imsics);
    assert_eq!(
        nodes.get(aplic, "interrupts-extended"),
        None,
        "that would be direct delivery"
    );

    assert_eq!(
        nodes.strings(imsics, "compatible"),
        ["qemu,imsics", "riscv,imsics"]
    );
    assert_eq!(nodes.reg(imsics), (0x2800_0000, 0x3000));
    assert!(nodes.flag(imsics, "interrupt-controller") && nodes.flag(imsics, "msi-controller"));
    assert_eq!(
        (
            nodes.cell(imsics, "#interrupt-cells"),
            nodes.cell(imsics, "#msi-cells")
        ),
        (0, 0)
    );
    assert_eq!(nodes.cell(imsics, "riscv,num-ids"), 255);
    let files = nodes.cells(imsics, "interrupts-extended");
    assert_eq!(files.len(), 3 * 2);
    for (hart, file) in files.chunks(2).enumerate() {
        let interrupts = format!("/cpus/cpu@{hart}/interrupt-controller");
        assert_eq!((nodes.target(file[0]), file[1]), (interrupts.as_str(), 9));
    }
    assert!(
        !nodes
            .properties
            .contains_key("/soc/interrupt-controller@c000000")
    );
}

#[test]
fn devices_are_wired_to_the_chip_that_there_is() {
    let plic = ("/soc/interrupt-controller@c000000", vec![], vec![]);
    let aplic = ("/soc/interrupt-controller@d000000", vec![4], vec![1]);
    for (interrupts, (chip, level, edge)) in [(PLIC, plic), (AIA, aplic)] {
        let nodes = Nodes::of(&machine(2, interrupts));
        let serial = "/soc/serial@10000000";
        assert_eq!(nodes.strings(serial, "compatible"), ["ns16550a"]);
        assert_eq!(nodes.reg(serial), (0x1000_0000, 0x100));
        assert_eq!(nodes.cell(serial, "clock-frequency"), 3_686_400);
        assert_eq!(nodes.target(nodes.cell(serial, "interrupt-parent")), chip);
        assert_eq!(
            nodes.cells(serial, "interrupts"),
            [vec![10], level.clone()].concat()
        );
        let rtc = "/soc/rtc@101000";
        assert_eq!(nodes.strings(rtc, "compatible"), ["google,goldfish-rtc"]);
        assert_eq!(nodes.reg(rtc), (0x10_1000, 0x1000));
        assert_eq!(nodes.target(nodes.cell(rtc, "interrupt-parent")), chip);
        assert_eq!(nodes.cells(rtc, "interrupts"), [vec![11], level].concat());
        for slot in 0..8_u32 {
            let address = 0x1000_1000 + u64::from(slot) * 0x1000;
            let virtio = format!("/soc/virtio_mmio@{address:x}");
            assert_eq!(nodes.strings(&virtio, "compatible"), ["virtio,mmio"]);
            assert_eq!(nodes.reg(&virtio), (address, 0x1000));
            assert_eq!(nodes.target(nodes.cell(&virtio, "interrupt-parent")), chip);
            assert_eq!(
                nodes.cells(&virtio, "interrupts"),
                [vec![1 + slot], edge.clone()].concat()
            );
        }
    }
}

#[test]
fn the_test_device_switches_off_and_reboots() {
    let nodes = Nodes::of(&machine(1, PLIC));
    let test = "/soc/test@100000";
    assert_eq!(
        nodes.strings(test, "compatible"),
        ["sifive,test1", "sifive,test0", "syscon"]
    );
    assert_eq!(nodes.reg(test), (0x10_0000, 0x1000));
    for (node, compatible, value) in [
        ("/poweroff", "syscon-poweroff", 0x5555),
        ("/reboot", "syscon-reboot", 0x7777),
    ] {
        assert_eq!(nodes.strings(node, "compatible"), [compatible]);
        assert_eq!(nodes.target(nodes.cell(node, "regmap")), test);
        assert_eq!(nodes.cell(node, "offset"), 0);
        assert_eq!(nodes.cell(node, "value"), value);
    }
}

#[test]
fn the_bus_lists_devices_by_ascending_address() {
    for interrupts in [PLIC, AIA] {
        let nodes = Nodes::of(&machine(2, interrupts));
        assert_eq!(nodes.strings("/soc", "compatible"), ["simple-bus"]);
        assert_eq!(
            (
                nodes.cell("/soc", "#address-cells"),
                nodes.cell("/soc", "#size-cells")
            ),
            (2, 2)
        );
        assert!(nodes.flag("/soc", "ranges"));
        let devices = nodes
            .order
            .iter()
            .filter_map(|path| path.strip_prefix("/soc/"));
        let addresses: Vec<u64> = devices
            .map(|name| u64::from_str_radix(name.split_once('@').unwrap().1, 16).unwrap())
            .collect();
        assert!(addresses.is_sorted());
        let regs = nodes
            .order
            .iter()
            .filter(|path| path.starts_with("/soc/"))
            .map(|path| nodes.reg(path).0);
        assert_eq!(regs.collect::<Vec<_>>(), addresses);
    }
}

#[test]
fn what_cannot_be_described_is_refused() {
    for harts in [0, layout::MAX_HARTS + 1, u32::MAX] {
        assert_eq!(build(&machine(harts, PLIC)), Err(Error::Harts(harts)));
    }
    for (base, size) in [
        (layout::RAM_BASE, 0),
        (layout::RAM_BASE, u64::MAX),
        (layout::RAM_BASE, u64::MAX - 0x8000_0000 + 1),
        (GuestPhysAddr(u64::MAX), 1),
    ] {
        assert_eq!(
            build(&Machine {
                ram_base: base,
                ram_size: size,
                ..machine(1, AIA)
            }),
            Err(Error::Ram { base, size })
        );
    }
    let command_line = String::from("quiet\0console=ttyS0");
    let refused = build(&Machine {
        command_line,
        ..machine(1, PLIC)
    });
    assert_eq!(refused, Err(Error::Write(vm_fdt::Error::InvalidString)));
}

proptest! {
    /// Whatever the machine, the blob can be read, phandles are unique, and each reference has a target of the right
    /// kind with the right number of cells.
    #[test]
    fn every_machine_has_a_sound_tree(
        harts in prop_oneof![30 => 1..9_u32, 1 => Just(layout::MAX_HARTS)],
        aia in any::<bool>(),
        mmu in prop::sample::select(&[MmuType::Bare, MmuType::Sv39, MmuType::Sv48, MmuType::Sv57][..]),
        ram_size in 1..=u64::MAX - layout::RAM_BASE.0,
        initrd in any::<Option<core::ops::Range<u64>>>(),
        command_line in "[^\\x00]{0,300}",
    ) {
        let mut machine = Machine { ram_size, initrd, command_line, ..machine(harts, if aia { AIA } else { PLIC }) };
        machine.hart.mmu = mmu;
        let nodes = Nodes::of(&machine);
        let mut phandles: Vec<&Vec<u8>> =
            nodes.properties.values().filter_map(|properties| properties.get("phandle")).collect();
        let count = phandles.len();
        phandles.sort();
        phandles.dedup();
        prop_assert_eq!(phandles.len(), count);
        for (path, properties) in &nodes.properties {
            if properties.contains_key("interrupt-controller") {
                prop_assert!(properties.contains_key("#interrupt-cells"), "{} lacks what dtc demands", path);
                prop_assert_eq!(nodes.cell(path, "#address-cells"), 0);
            }
            for (name, flag) in [("interrupt-parent", "interrupt-controller"), ("msi-parent", "msi-controller")] {
                if properties.contains_key(name) {
                    prop_assert!(nodes.flag(nodes.target(nodes.cell(path, name)), flag));
                }
            }
            if properties.contains_key("interrupts") {
                let chip = nodes.target(nodes.cell(path, "interrupt-parent"));
                prop_assert_eq!(nodes.cells(path, "interrupts").len(), nodes.cell(chip, "#interrupt-cells") as usize);
            }
        }
        let cpus = nodes.order.iter().filter(|path| path.starts_with("/cpus/cpu@")).count();
        prop_assert_eq!(cpus, 2 * harts as usize, "each with its interrupt controller");
    }
}

#[test]
fn room_is_behind_the_last_block_and_counted_in() {
    let blob = build(&machine(1, PLIC)).unwrap();
    let mut roomy = blob.clone();
    add_room(&mut roomy);
    assert_eq!(roomy.len(), blob.len() + ROOM);
    let size = u32::try_from(roomy.len()).unwrap();
    assert_eq!(roomy[4..8], size.to_be_bytes());
    assert_eq!(roomy[8..blob.len()], blob[8..]);
    assert!(roomy[blob.len()..].iter().all(|byte| *byte == 0));
    // A guest's parser takes it.
    assert!(dtoolkit::fdt::Fdt::new(&roomy).is_ok());
}

/// A device of no kind that is known here.
fn counter(base: u64, irq: Option<u32>) -> DeviceNode {
    let node = Node::new("counter")
        .value("compatible", *b"example,counter\0")
        .cell("example,step", 7)
        .registers();
    let node = match irq {
        Some(irq) => node.interrupt(irq, Trigger::LevelHigh),
        None => node,
    };
    DeviceNode::new(GuestPhysAddr(base), 0x100, node)
}

#[test]
fn a_device_of_any_kind_has_its_own_properties() {
    for (chip, interrupts) in [(PLIC, &[36][..]), (AIA, &[36, 4])] {
        let mut machine = machine(1, chip);
        // Where an address is in the list means nothing.
        machine
            .devices
            .extend([counter(0x400_1000, None), counter(0x400_0000, Some(36))]);
        let nodes = Nodes::of(&machine);
        let path = "/soc/counter@4000000";
        assert_eq!(nodes.strings(path, "compatible"), ["example,counter"]);
        assert_eq!(nodes.cell(path, "example,step"), 7);
        assert_eq!(nodes.cells(path, "reg"), [0, 0x400_0000, 0, 0x100]);
        assert_eq!(nodes.cells(path, "interrupts"), interrupts);
        assert_eq!(nodes.get("/soc/counter@4001000", "interrupts"), None);
        machine.devices[0].node.name = "nul\0".into();
        assert!(matches!(build(&machine), Err(Error::Write(_))));
    }
}

#[test]
fn devices_are_in_the_order_of_their_addresses_around_the_chips() {
    for chip in [PLIC, AIA] {
        let mut machine = machine(2, chip);
        for base in [0x4000_0000, 0x2700_0000, 0x400_0000, 0x8_0000] {
            machine.devices.push(counter(base, None));
        }
        let nodes = Nodes::of(&machine);
        let addresses = nodes.order.iter().filter_map(|path| {
            let (_, address) = path.strip_prefix("/soc/")?.split_once('@')?;
            u64::from_str_radix(address, 16).ok()
        });
        let addresses: Vec<u64> = addresses.collect();
        assert!(addresses.is_sorted(), "{addresses:x?}");
        let chips = if chip == PLIC { 1 } else { 2 };
        assert_eq!(addresses.len(), machine.devices.len() + chips);
    }
}

#[test]
fn devices_that_others_refer_to_have_phandles_of_their_own() {
    let mut machine = machine(layout::MAX_HARTS, PLIC);
    for base in [0x400_0000, 0x400_1000] {
        let node = Node::new("clock").registers().phandle();
        let user = Node::new(format!("user{base:x}")).device("clock");
        let device = DeviceNode::new(GuestPhysAddr(base), 8, node).at_root(user);
        machine.devices.push(device);
    }
    let nodes = Nodes::of(&machine);
    let target = |path, property| nodes.target(nodes.cell(path, property));
    assert_eq!(target("/poweroff", "regmap"), "/soc/test@100000");
    assert_eq!(target("/user4000000", "clock"), "/soc/clock@4000000");
    assert_eq!(target("/user4001000", "clock"), "/soc/clock@4001000");
}

#[test]
fn the_first_serial_port_is_the_console() {
    let mut machine = machine(1, PLIC);
    let port = |base| DeviceNode::new(GuestPhysAddr(base), 8, Node::new("port")).console();
    machine.devices = vec![counter(0, None), port(0x1100_0000), port(0x100)];
    let nodes = Nodes::of(&machine);
    assert_eq!(nodes.strings("/chosen", "stdout-path"), ["/soc/port@100"]);
    assert_eq!(nodes.strings("/aliases", "serial0"), ["/soc/port@100"]);
    assert_eq!(nodes.strings("/aliases", "serial1"), ["/soc/port@11000000"]);
    machine.devices.clear();
    assert_eq!(Nodes::of(&machine).get("/chosen", "stdout-path"), None);
}

/// A hash of the blob (FNV-1a) and its length.
fn fingerprint(machine: &Machine) -> (u64, usize) {
    let blob = build(machine).unwrap();
    let hash = blob.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash, blob.len())
}

/// Guests and their users have seen these trees: what changes one of them does so knowingly.
#[test]
fn the_trees_are_the_same_byte_for_byte() {
    let fingerprints = [PLIC, AIA].map(|chip| {
        let plain = machine(1, chip);
        let mut bare = machine(5, chip);
        bare.command_line = String::new();
        bare.initrd = None;
        bare.rng_seed = None;
        bare.hypervisor = "hv-bare";
        bare.ram_base = GuestPhysAddr(0x9000_0000);
        let mut full = machine(3, chip);
        let counters = [counter(0x400_0000, Some(36)), counter(0x400_1000, None)];
        full.devices.extend(counters);
        [plain, bare, full].map(|machine| fingerprint(&machine))
    });
    let of_plic = [
        (12461357050755225229, 3203),
        (664292436779675429, 4761),
        (15951777739091260709, 4312),
    ];
    let of_aia = [
        (16860832180846839931, 3537),
        (15723827488338572274, 5159),
        (14211614819033126951, 4682),
    ];
    assert_eq!(fingerprints, [of_plic, of_aia]);
}
