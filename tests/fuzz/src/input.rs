//! An input as the numbers and bytes that a target makes of it, and the other way round for seeds.

/// Reads an input from its beginning. Behind its end there are zeros, so that every input has a meaning.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes, or fewer if there are not so many.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next bytes as a number of 16 bits, as all numbers little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next bytes as a number of 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next bytes as a number of 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// A number below `limit`, which is at most 256 and not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// A number of 64 bits: any, or one that computations tend to be wrong at.
    pub fn number(&mut self) -> u64 {
        const INTERESTING: [u64; 16] = [
            0,
            1,
            2,
            3,
            4,
            7,
            0x7fff,
            0xffff,
            0x1_0000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ];
        match self.byte() {
            kind @ 0..16 => INTERESTING[usize::from(kind)],
            16..64 => self.byte().into(),
            64..128 => self.u16().into(),
            128..192 => self.u32().into(),
            _ => self.u64(),
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// Makes a seed of what a target reads by [`Input`].
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<u8>);

impl Script {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// For [`Input::byte`], [`Input::below`] and [`Input::choose`].
    #[must_use]
    pub fn byte(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    /// For [`Input::u16`].
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// For [`Input::u32`].
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// For [`Input::u64`].
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// For [`Input::number`].
    #[must_use]
    pub fn number(self, value: u64) -> Self {
        self.byte(u8::MAX).u64(value)
    }

    /// The seed.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}
