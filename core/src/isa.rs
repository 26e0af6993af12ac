//! The ISA extensions of a hart, kept in the canonical order of the unprivileged specification's chapter "ISA Extension
//! Naming Conventions": single letters in the order of its table, then `Z` extensions by category and name, then `S`
//! extensions by name with the machine-level `Sm` ones last, then the vendors' `X` extensions by name.

use alloc::collections::BTreeSet;
use alloc::string::String;

/// The single-letter extensions in canonical order, with the letters that the manual's table has since dropped where
/// Linux keeps them (Documentation/arch/riscv/uabi.rst). The same order ranks the categories of `Z` extensions, which
/// are named by the letter after the `Z`.
const CANONICAL_ORDER: &str = "imafdqlcbkjtpvh";

/// A name that is not that of an extension.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` does not name an ISA extension: expected one letter of `{CANONICAL_ORDER}`, or z, s or x and more letters"
)]
pub struct InvalidExtension(pub String);

/// The ISA extensions of an RV64 hart, as an ordered set. It always has `i`, the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isa {
    extensions: BTreeSet<Extension>,
}

/// An extension's lower-case name behind what ranks before it, so that the derived order is the canonical one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Extension {
    group: Group,
    name: String,
}

/// What the canonical order compares before names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// A single letter, by its place in [`CANONICAL_ORDER`].
    Single(usize),
    /// A standard unprivileged extension, by the place of its category in [`CANONICAL_ORDER`]; categories that are not
    /// in there come last.
    Unprivileged(usize),
    /// A standard supervisor- or hypervisor-level extension.
    Supervisor,
    /// A standard machine-level extension.
    Machine,
    /// A vendor's extension.
    Vendor,
}

impl Extension {
    fn new(name: &str) -> Result<Self, InvalidExtension> {
        let name = name.to_ascii_lowercase();
        let mut letters = name.chars();
        let group = match (letters.next(), letters.next()) {
            (Some(letter), None) => CANONICAL_ORDER.find(letter).map(Group::Single),
            (Some('z'), Some(category)) => Some(Group::Unprivileged(
                CANONICAL_ORDER
                    .find(category)
                    .unwrap_or(CANONICAL_ORDER.len()),
            )),
            (Some('s'), Some('m')) => Some(Group::Machine),
            (Some('s'), Some(_)) => Some(Group::Supervisor),
            (Some('x'), Some(_)) => Some(Group::Vendor),
            _ => None,
        };
        match group {
            Some(group) if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Ok(Self { group, name })
            }
            _ => Err(InvalidExtension(name)),
        }
    }
}

impl Isa {
    /// An ISA of these extensions, named as in the specifications in any case and any order: `"m"`, `"sstc"`,
    /// `"zicbom"`. The base `i` need not be named.
    ///
    /// # Errors
    /// [`InvalidExtension`] with the first name that is not of an extension.
    pub fn from_names<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidExtension> {
        let mut extensions = BTreeSet::from([Extension::new("i")?]);
        for name in names {
            extensions.insert(Extension::new(name)?);
        }
        Ok(Self { extensions })
    }

    /// Whether the extension of this (lower-case) name is in the set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|other| other == name)
    }

    /// This ISA without the extensions of these (lower-case) names; for what the hart has and the guest must not use.
    /// The base `i` stays.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        let stays = |extension: &Extension| {
            extension.name == "i" || !names.contains(&extension.name.as_str())
        };
        Self {
            extensions: self
                .extensions
                .iter()
                .filter(|extension| stays(extension))
                .cloned()
                .collect(),
        }
    }

    /// The extensions' lower-case names in canonical order: what the device tree calls `riscv,isa-extensions`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.extensions
            .iter()
            .map(|extension| extension.name.as_str())
    }

    /// The base, as the device tree's `riscv,isa-base` has it.
    #[must_use]
    pub const fn base(&self) -> &'static str {
        "rv64i"
    }

    /// The ISA string, as the device tree's `riscv,isa` has it: `rv64imafdc_zicbom_sstc`.
    #[must_use]
    pub fn isa_string(&self) -> String {
        let mut string = String::from("rv64");
        for extension in &self.extensions {
            if !matches!(extension.group, Group::Single(_)) {
                string.push('_');
            }
            string.push_str(&extension.name);
        }
        string
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn isa(names: &[&str]) -> Isa {
        Isa::from_names(names.iter().copied()).unwrap()
    }

    #[test]
    fn single_letters_take_the_order_of_the_manuals_table() {
        assert_eq!(
            isa(&["h", "v", "c", "d", "f", "a", "m", "i"]).isa_string(),
            "rv64imafdcvh"
        );
    }

    #[test]
    fn the_base_is_always_there() {
        assert_eq!(isa(&[]).isa_string(), "rv64i");
        assert_eq!(isa(&["i", "m"]).without(&["i", "m"]).isa_string(), "rv64i");
        assert_eq!(isa(&[]).base(), "rv64i");
    }

    #[test]
    fn long_names_follow_by_category_then_alphabetically() {
        let names = [
            "xventanacondops",
            "svinval",
            "sstc",
            "smaia",
            "zvfh",
            "zbb",
            "zba",
            "zfh",
            "zicond",
            "zicbom",
        ];
        let more = ["zawrs", "zmmul", "ztso", "zkr", "zca", "c", "m", "ssaia"];
        let all: Vec<&str> = names.iter().chain(&more).copied().collect();
        assert_eq!(
            isa(&all).isa_string(),
            "rv64imc_zicbom_zicond_zmmul_zawrs_zfh_zca_zba_zbb_zkr_ztso_zvfh_ssaia_sstc_svinval_smaia_xventanacondops"
        );
    }

    #[test]
    fn a_z_extension_of_no_category_comes_after_those_that_have_one() {
        assert_eq!(
            isa(&["zyfoo", "zvbb", "sstc"]).isa_string(),
            "rv64i_zvbb_zyfoo_sstc"
        );
    }

    #[test]
    fn names_come_once_and_in_lower_case() {
        let isa = isa(&["Zicbom", "zicbom", "M", "m"]);
        assert_eq!(isa.names().collect::<Vec<_>>(), ["i", "m", "zicbom"]);
        assert!(isa.contains("zicbom") && isa.contains("i") && !isa.contains("zicboz"));
    }

    #[test]
    fn without_takes_away_exactly_the_named() {
        let isa = isa(&["m", "ssaia", "smaia", "sstc"]);
        assert_eq!(
            isa.without(&["ssaia", "smaia", "zkr"]).isa_string(),
            "rv64im_sstc"
        );
    }

    #[test]
    fn what_is_no_extension_is_refused() {
        for name in [
            "", "z", "s", "x", "y", "im", "zic bom", "zic_bom", "sstc\0", "zé", "é",
        ] {
            assert_eq!(
                Isa::from_names([name]),
                Err(InvalidExtension(name.into())),
                "{name:?}"
            );
        }
    }

    proptest! {
        /// Linux's parser splits single letters off until the first underscore and then takes underscore-separated names;
        /// reading our string back that way yields our set, whatever the order the names were given in.
        #[test]
        fn the_string_reads_back_as_the_set(
            names in proptest::collection::vec("[imafdqcbvh]|[zsx][a-z0-9]{1,8}", 0..20).prop_shuffle()
        ) {
            let isa = Isa::from_names(names.iter().map(String::as_str)).unwrap();
            let string = isa.isa_string();
            let mut parts = string.strip_prefix("rv64").unwrap().split('_');
            let singles = parts.next().unwrap();
            let mut read: Vec<&str> = singles.split("").filter(|letter| !letter.is_empty()).collect();
            read.extend(parts);
            prop_assert_eq!(&read, &isa.names().collect::<Vec<_>>());
            for name in &names {
                prop_assert!(isa.contains(name));
            }
        }
    }
}
