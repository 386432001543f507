body &body
  opset "" 20
  input %x: bf16[d0, d1, 256]
  input %weight0: bf16[256]
  %normfuse/v_1: f32[d0, d1, 256] = cast(%x) {to=f32, saturate=true}
  const %normfuse/const_2: f32[] = 2.0
  %normfuse/v_3: f32[d0, d1, 256] = pow(%normfuse/v_1, %normfuse/const_2)
  %normfuse/v_4: f32[d0, d1, 1] = reduce_mean(%normfuse/v_3) {axes=[-1], keepdims=true}
  const %normfuse/const_5: f32[] = 1e-6
  %normfuse/v_6: f32[d0, d1, 1] = add(%normfuse/v_4, %normfuse/const_5)
  %normfuse/v_7: f32[d0, d1, 1] = rsqrt(%normfuse/v_6)
  %normfuse/v_8: f32[d0, d1, 256] = mul(%normfuse/v_7, %normfuse/v_1)
  %normfuse/v_9: bf16[d0, d1, 256] = cast(%normfuse/v_8) {to=bf16, saturate=true}
  %normfuse/v_10: bf16[d0, d1, 256] = mul(%weight0, %normfuse/v_9)
  output %normfuse/v_10 as "y0"
end
graph "rms_rsqrt"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %one: f32[] = 1.0
%y: bf16[batch, seq, 256] = fused_norm(%x, %w) {prologue=none, source=shared, emit_sum=false, siblings=[{width=256, input=bf16, compute=f32, eps=1e-6, root=rsqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/y_ms body &body from {replaced=[y_x32, y_sq, y_ms, y_ve, y_r, y_n, y_nc, y], rules=["mean-of-squares", "norm-by-rsqrt", "plus-eps", "pow-two-is-square", weight]}
output %y
