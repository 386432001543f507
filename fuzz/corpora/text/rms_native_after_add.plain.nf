graph "rms_native_after_add"
opset "" 23
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
input %res: bf16[batch, seq, 256]
%h: bf16[batch, seq, 256] = add(%x, %res)
%y: bf16[batch, seq, 256] = rms_norm(%h, %w) {axis=-1, eps=1e-5, stash=f32}
output %y
output %h
