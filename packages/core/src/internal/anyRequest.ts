import * as LlmRequest from "../LlmRequest.ts"

/** A request that asks for nothing in particular: who would not take this one takes none. */
export const anyRequest = LlmRequest.make({ prompt: "" })
