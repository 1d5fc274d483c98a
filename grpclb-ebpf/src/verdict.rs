//! What a hook tells the kernel.

/// A hook's answer; an entry point that drops it would compile to whatever stands in the register.
#[must_use = "the verdict is what the entry point returns"]
#[derive(Clone, Copy)]
pub struct Verdict(i32);

impl Verdict {
    /// The system call goes on. The only verdict there is: we never refuse.
    pub const PROCEED: Self = Self(1);

    #[inline(always)]
    pub fn code(self) -> i32 {
        self.0
    }
}
