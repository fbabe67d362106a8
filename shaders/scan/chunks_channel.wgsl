// To be written: records of chunks with a decay a channel.
fn kernel(group: u32, lane: u32) {
}
