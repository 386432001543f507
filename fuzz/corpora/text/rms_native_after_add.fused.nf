body &body
  opset "" 23
  input %x: bf16[d0, d1, 256]
  input %residual: bf16[d0, d1, 256]
  input %weight0: bf16[256]
  %normfuse/v_1: bf16[d0, d1, 256] = add(%x, %residual)
  %normfuse/v_2: bf16[d0, d1, 256] = rms_norm(%normfuse/v_1, %weight0) {axis=-1, eps=1e-5, stash=f32}
  output %normfuse/v_1 as "sum"
  output %normfuse/v_2 as "y0"
end
graph "rms_native_after_add"
opset "" 23
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
input %res: bf16[batch, seq, 256]
%h: bf16[batch, seq, 256], %y: bf16[batch, seq, 256] = fused_norm(%x, %res, %w) {prologue={residual_add={dtype=bf16}}, source=shared, emit_sum=true, siblings=[{width=256, input=bf16, compute=f32, eps=1e-5, root=divide_by_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/y body &body from {replaced=[h, y], rules=[residual, weight]}
output %y
output %h
