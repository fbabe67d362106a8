//! `State`: copied, saved, read back, and refused where it does not belong.

mod common;

use common::{Budget, assert_close, engines, random};
use wgpu_attention::variants::dense::DenseAttention;
use wgpu_attention::variants::linear::{LinearAttention, Retention};
use wgpu_attention::{ErrorKind, HostTensor, Inputs, Runtime, State};

const LENGTH: usize = 20;

fn call(first: usize, end: usize) -> Inputs {
    ["q", "k", "v"].iter().zip(1..).fold(Inputs::new(), |all, (name, seed)| {
        all.with(name, random(&[1, 2, LENGTH, 8], seed).narrow(2, first, end - first).contiguous())
    })
}

fn step(runtime: &Runtime, state: &mut State, end: usize) -> HostTensor {
    let call = call(state.position(), end);
    let outputs = runtime.step_blocking(&Retention::default(), state, &call).expect("a step");
    runtime.read_blocking(outputs.get("out").expect("out")).expect("its elements")
}

#[test]
fn a_copy_is_left_alone_by_later_steps() {
    for (name, runtime) in engines() {
        let mut state = State::new(&Retention::default());
        step(&runtime, &mut state, 7);
        let mut copy = state.clone();
        let ahead = step(&runtime, &mut state, LENGTH);
        assert_eq!((copy.position(), state.position()), (7, LENGTH));
        assert_close(name, &ahead, &step(&runtime, &mut copy, LENGTH), Budget::EXACT);
    }
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    for (name, runtime) in engines() {
        let mut state = State::new(&Retention::default());
        step(&runtime, &mut state, 11);
        let bytes = pollster::block_on(state.save(&runtime)).expect("bytes");
        let mut read = State::load(&bytes).expect("a state");
        assert_eq!((read.variant(), read.position()), ("retention", 11));
        let parts = |state: &State| state.parts().map(|(part, _)| part.to_owned()).collect::<Vec<_>>();
        let (mut before, mut after) = (parts(&state), parts(&read));
        before.sort();
        after.sort();
        assert_eq!(before, after);
        assert_close(name, &step(&runtime, &mut state, LENGTH), &step(&runtime, &mut read, LENGTH), Budget::EXACT);
    }
}

#[test]
fn mistakes_are_refused() {
    let runtime = Runtime::cpu();
    let mut state = State::new(&Retention::default());
    step(&runtime, &mut state, 3);
    let other =
        runtime.step_blocking(&LinearAttention::default(), &mut state, &call(3, 4)).expect_err("another variant");
    assert_eq!(other.kind(), ErrorKind::Parameter);
    assert!(other.to_string().contains("one of retention after 3 tokens"), "{other}");
    let twice = call(3, 4).with("state", HostTensor::zeros(&[1, 2, 8, 8]));
    let twice = runtime.step_blocking(&Retention::default(), &mut state, &twice).expect_err("a state twice");
    assert_eq!(twice.kind(), ErrorKind::Parameter);
    assert_eq!(state.position(), 3, "a refused step moves nothing");
    let dense = DenseAttention::default();
    let none = runtime.step_blocking(&dense, &mut State::new(&dense), &call(0, 4)).expect_err("no state");
    assert!(none.to_string().contains("dense-attention: has no state"), "{none}");
    for bytes in [&b"no file"[..], &wgpu_attention::case::write([], Default::default()).expect("an empty file")] {
        assert_eq!(State::load(bytes).expect_err("no state").kind(), ErrorKind::File);
    }
}
