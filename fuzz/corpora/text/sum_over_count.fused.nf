body &body
  opset "" 20
  input %x: f32[d0, d1, 24]
  input %weight0: f32[24]
  %normfuse/v_1: f32[d0, d1, 1] = reduce_sum_square(%x) {axes=[-1], keepdims=true}
  const %normfuse/const_2: f32[] = 24.0
  %normfuse/v_3: f32[d0, d1, 1] = div(%normfuse/v_1, %normfuse/const_2)
  const %normfuse/const_4: f32[] = 0.001
  %normfuse/v_5: f32[d0, d1, 1] = add(%normfuse/v_3, %normfuse/const_4)
  %normfuse/v_6: f32[d0, d1, 1] = sqrt(%normfuse/v_5)
  %normfuse/v_7: f32[d0, d1, 1] = reciprocal(%normfuse/v_6)
  %normfuse/v_8: f32[d0, d1, 24] = mul(%x, %normfuse/v_7)
  %normfuse/v_9: f32[d0, d1, 24] = mul(%normfuse/v_8, %weight0)
  output %normfuse/v_9 as "y0"
end
graph "sum_over_count"
opset "" 20
input %x: f32[batch, seq, 24]
const %w: f32[24] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
%y: f32[batch, seq, 24] = fused_norm(%x, %w) {prologue=none, source=shared, emit_sum=false, siblings=[{width=24, input=f32, compute=f32, eps=0.001, root=reciprocal_sqrt, normed=f32, weight={dtype=f32, plus_one=false}, output=f32, emit_normed=true, epilogues=[]}]} @fused_norm/sm body &body from {replaced=[sm, ms, ve, rt, r, nn, y], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "sum-over-count-is-mean", weight]}
output %y
