//! Simulated time of an engine under test.

#![allow(dead_code, missing_docs, unreachable_pub)] // Each test uses a part of it.

use link_watcher_core::{
    engine::Engine,
    event::{Action, Command, Event},
};

/// Whoever has an engine and a clock, and does what the engine wants done.
pub trait Clocked {
    /// The engine, and the present instant, ns.
    fn parts(&mut self) -> (&mut Engine, &mut u64);

    /// Does what the engine wants done.
    fn carry_out(&mut self, action: Action);

    /// Brings the engine up to now, and does what it wants done.
    fn run_engine(&mut self) {
        let (engine, now_ns) = self.parts();
        engine.tick(*now_ns);
        for action in engine.actions() {
            self.carry_out(action);
        }
    }

    /// Something happens now.
    fn event(&mut self, event: Event) {
        let (engine, now_ns) = self.parts();
        engine.handle(*now_ns, event);
        self.run_engine();
    }

    /// An order.
    fn command(&mut self, command: Command) -> Result<String, String> {
        let (engine, now_ns) = self.parts();
        let answer = engine.command(*now_ns, command);
        self.run_engine();
        answer
    }

    /// Lets time pass until this instant, ns, by the engine's own deadlines alone: nobody else wakes it.
    fn pass_until(&mut self, until_ns: u64) {
        loop {
            let (engine, now_ns) = self.parts();
            let Some(due_ns) = engine.next_deadline().filter(|due_ns| *due_ns <= until_ns) else { break };
            *now_ns = due_ns.max(*now_ns);
            self.run_engine();
        }
        *self.parts().1 = until_ns;
    }

    /// Lets so much time pass, ns.
    fn pass(&mut self, ns: u64) {
        let until_ns = *self.parts().1 + ns;
        self.pass_until(until_ns);
    }
}
