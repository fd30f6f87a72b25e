/** What happened at one step of the fallback chain. */
export * as Attempt from "./Attempt.ts"
/** The circuit as a pure machine. */
export * as Circuit from "./Circuit.ts"
/** Stops calling a provider that keeps failing. */
export * as CircuitBreaker from "./CircuitBreaker.ts"
/** Leaves a provider alone for as long as it asked. */
export * as Cooldown from "./Cooldown.ts"
/** The table that says what an error means. */
export * as Decision from "./Decision.ts"
/** Marks a step whose answers are less than the user may expect. */
export * as Degradation from "./Degradation.ts"
/** Many providers become one. */
export * as Fallback from "./Fallback.ts"
/** One question to a language model. */
export * as LlmRequest from "./LlmRequest.ts"
/** The whole composition as one service and one layer. */
export * as LlmResilience from "./LlmResilience.ts"
/** A complete answer and the parts of a streamed one. */
export * as LlmResponse from "./LlmResponse.ts"
/** The graceful error when nobody could answer. */
export * as LlmUnavailable from "./LlmUnavailable.ts"
/** Finds out whether a text repeats itself without end. */
export * as Loop from "./Loop.ts"
/** The honest word to the end user. */
export * as Notice from "./Notice.ts"
/** Looks at what the model said. */
export * as OutputGuard from "./OutputGuard.ts"
/** One concern around one provider. */
export * as Policy from "./Policy.ts"
/** One upstream model. */
export * as Provider from "./Provider.ts"
/** What can go wrong at a provider. */
export * as ProviderError from "./ProviderError.ts"
/** Recognises a short answer in which the model declines. */
export * as Refusal from "./Refusal.ts"
/** The configuration of a chain, from YAML, JSON or code. */
export * as ResilienceConfig from "./ResilienceConfig.ts"
/** What happened while requests were served. */
export * as ResilienceEvent from "./ResilienceEvent.ts"
/** Asks the same provider again when this can help. */
export * as Retry from "./Retry.ts"
/** Bounds how long one provider may take. */
export * as Timeouts from "./Timeouts.ts"
