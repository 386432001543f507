body &body
  opset "" 20
  input %x: f32[d0, d1, 256]
  input %residual: f32[d0, d1, 256]
  input %weight0: f32[256]
  %normfuse/v_1: f32[d0, d1, 256] = add(%x, %residual)
  %normfuse/v_2: f32[d0, d1, 256] = rms_norm(%normfuse/v_1, %weight0) {axis=-1, eps=1e-6, stash=f32, root=reciprocal_sqrt, cast=after_scale}
  output %normfuse/v_1 as "sum"
  output %normfuse/v_2 as "y0"
end
graph "ort_norm_f32"
opset "" 20
input %x: f32[batch, seq, 256]
input %res: f32[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%h: f32[batch, seq, 256], %y: f32[batch, seq, 256] = fused_norm(%x, %res, %w) {prologue={residual_add={dtype=f32}}, source=shared, emit_sum=true, siblings=[{width=256, input=f32, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=f32, weight={dtype=f32, plus_one=false}, output=f32, emit_normed=true, epilogues=[]}]} @fused_norm/y body &body from {replaced=[h, y], rules=["cast-to-own-type", residual, weight]}
output %y
output %h
