import type { Allowance, LlmRequest } from "../LlmRequest.ts"

/** Taking one from infinity leaves infinity, so that all requests may share it. */
export const unlimited: Allowance = { left: Infinity }

/** What a request may spend: what is left of it, or, where nobody has bounded it yet, its own attempts or so many. */
export const allowanceOf = ({ allowance, attempts }: LlmRequest, most: number | undefined): Allowance => {
  const bound = attempts ?? most
  return bound === undefined || allowance !== unlimited ? allowance : { left: bound - 1 }
}
