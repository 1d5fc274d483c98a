//! Records that live with their socket (`BPF_MAP_TYPE_SK_STORAGE`): they go when it goes, so nothing leaks.
//!
//! aya's own methods take the context of address hooks only; `sock_ops` needs them too.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;

/// The socket's record, if it has one.
///
/// # Safety
/// `sk` is the socket of a context, not null. The record must not be written elsewhere at the same time.
#[inline(always)]
pub unsafe fn get<T>(storage: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static T> {
    let map = (&raw const *storage).cast_mut().cast::<c_void>();
    unsafe {
        bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0)
            .cast::<T>()
            .as_ref()
    }
}

/// Writes the socket's record; false if the kernel has no room for it.
///
/// # Safety
/// As for [`get`].
#[inline(always)]
pub unsafe fn put<T: Copy>(storage: &'static SkStorage<T>, sk: *mut bpf_sock, value: &T) -> bool {
    let map = (&raw const *storage).cast_mut().cast::<c_void>();
    let initial = (&raw const *value).cast_mut().cast::<c_void>();
    let record = unsafe { bpf_sk_storage_get(map, sk.cast(), initial, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    let record = record.cast::<T>();
    if record.is_null() {
        return false;
    }
    // It may have been there from an earlier connect of this socket.
    unsafe { *record = *value };
    true
}
