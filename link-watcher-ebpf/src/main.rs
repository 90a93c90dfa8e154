//! The kernel program: verifies keepalives and answers probes before the network stack sees them.
//!
//! A packet runs through [`parse`] (what is it?), [`verify`] (is it ours, and good?) and, if it is a valid probe,
//! [`echo`]. Whatever is not ours is passed on untouched; of what is ours only valid control packets go up.
//! This file turns each outcome into a verdict and a counter.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(unsafe_code)] // Packets, maps and inline assembly: each use says why it is sound.

mod echo;
mod hmac;
mod log;
mod maps;
mod parse;
mod verify;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use link_watcher_common::verify::Refusal;
use maps::{counted, refused};

// linux/pkt_cls.h
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// Why a packet gets no answer.
enum Stop {
    /// No packet for us: the network stack shall have it.
    NotOurs,
    /// For us, but not good; counted for this link.
    Refused(u32, Refusal),
}

/// What a good packet of this link was.
enum Good {
    /// A probe, answered in place.
    Probe(u32),
    /// The echo of a probe of ours.
    Echo(u32),
    /// A control packet, for user space.
    Control(u32),
}

/// What becomes of the packet.
enum Verdict {
    Pass,
    Drop,
    Answer,
}

/// For devices with an Ethernet header.
#[xdp]
fn lw_xdp_ethernet(ctx: XdpContext) -> u32 {
    action(judge(&parse::XdpFrame::<true>(&ctx)))
}

/// For devices without a link header: packets start with the IP header.
#[xdp]
fn lw_xdp_ip(ctx: XdpContext) -> u32 {
    action(judge(&parse::XdpFrame::<false>(&ctx)))
}

/// [`lw_xdp_ethernet`] for the tc hook.
#[classifier]
fn lw_tc_ethernet(ctx: TcContext) -> i32 {
    tc_action(judge(&parse::TcFrame::<true>::new(&ctx)), &ctx)
}

/// [`lw_xdp_ip`] for the tc hook.
#[classifier]
fn lw_tc_ip(ctx: TcContext) -> i32 {
    tc_action(judge(&parse::TcFrame::<false>::new(&ctx)), &ctx)
}

#[inline(always)]
fn tc_action(verdict: Verdict, ctx: &TcContext) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC, // The next program's turn.
        Verdict::Drop => TC_ACT_SHOT,
        // SAFETY: the context is the kernel's, and so is the interface: out again where it came in.
        Verdict::Answer => unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 },
    }
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn judge(frame: &impl parse::Frame) -> Verdict {
    maps::count_traffic(frame);
    let outcome = verify::handle(frame);
    log::tell(&outcome);
    match outcome {
        Ok(Good::Probe(slot)) => counted(slot, Verdict::Answer, |counters| Some(&mut counters.probes)),
        Ok(Good::Echo(slot)) => counted(slot, Verdict::Drop, |counters| Some(&mut counters.echoes)),
        Ok(Good::Control(slot)) => counted(slot, Verdict::Pass, |counters| Some(&mut counters.control)),
        Err(Stop::NotOurs) => Verdict::Pass,
        Err(Stop::Refused(slot, refusal)) => counted(slot, Verdict::Drop, |counters| refused(counters, refusal)),
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends some of its helpers only to programs that name a licence compatible with its own.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
