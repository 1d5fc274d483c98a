//! The splitter's entries, each in a function of its own that is never inlined. callgrind counts while one of them runs
//! (`--toggle-collect=calls::entry::*`), so that the work of the peers is not in the figures. No entry may call another
//! one: the second would turn counting off.

use std::hint::black_box;
use std::io::IoSlice;

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::connection::Output;
use grpclb_engine::splitter::{Action, ConnId, Splitter};

#[inline(never)]
pub(crate) fn handle_input(splitter: &mut Splitter, now: Time, id: ConnId, input: &mut BytesMut) {
    splitter.handle_input(now, id, input);
    black_box(()); // keeps the call from becoming a jump, which callgrind could not tell from a return
}

#[inline(never)]
pub(crate) fn handle_timeout(splitter: &mut Splitter, now: Time) {
    if splitter.poll_timeout().is_some_and(|due| due <= now) {
        splitter.handle_timeout(now);
    }
    black_box(());
}

#[inline(never)]
pub(crate) fn poll_action(splitter: &mut Splitter) -> Option<Action> {
    black_box(splitter.poll_action())
}

#[inline(never)]
pub(crate) fn poll_dirty(splitter: &mut Splitter) -> Option<ConnId> {
    black_box(splitter.poll_dirty())
}

#[inline(never)]
pub(crate) fn transmit(splitter: &mut Splitter, now: Time, id: ConnId) -> Option<&mut Output> {
    black_box(splitter.transmit(now, id))
}

#[inline(never)]
pub(crate) fn slices<'a>(output: &'a Output, slices: &mut [IoSlice<'a>]) -> usize {
    black_box(output.slices(slices))
}

#[inline(never)]
pub(crate) fn advance(output: &mut Output, written: usize) {
    output.advance(written);
    black_box(());
}
