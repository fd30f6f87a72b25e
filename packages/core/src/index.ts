/** Finds out how many calls a provider can take at a time. */
export * as AdaptiveConcurrency from "./AdaptiveConcurrency.ts"
/** What happened at one step of the fallback chain. */
export * as Attempt from "./Attempt.ts"
/** Bounds retries and hedges of all calls to a provider. */
export * as Budget from "./Budget.ts"
/** Bounds how many calls a provider has at a time. */
export * as Bulkhead from "./Bulkhead.ts"
/** What an answer is stored under. */
export * as CacheKey from "./CacheKey.ts"
/** Measures what similar answers would do, before anybody is served one. */
export * as CacheShadow from "./CacheShadow.ts"
/** Where the emergency cache keeps its entries. */
export * as CacheStore from "./CacheStore.ts"
/** One key for all ways to write the same question. */
export * as CanonicalKey from "./CanonicalKey.ts"
/** The circuit as a pure machine. */
export * as Circuit from "./Circuit.ts"
/** Stops calling a provider that keeps failing. */
export * as CircuitBreaker from "./CircuitBreaker.ts"
/** How many calls a provider can take, as a pure machine. */
export * as Congestion from "./Congestion.ts"
/** Leaves a provider alone for as long as it asked. */
export * as Cooldown from "./Cooldown.ts"
/** What an answer costs: tokens times the price of the model. */
export * as Cost from "./Cost.ts"
/** The table that says what an error means. */
export * as Decision from "./Decision.ts"
/** Writes one log line for each decision. */
export * as DecisionLog from "./DecisionLog.ts"
/** Accepts with a ticket what nobody can answer now, and answers it later. */
export * as DeferredQueue from "./DeferredQueue.ts"
/** Where the deferred queue keeps its requests. */
export * as DeferredStore from "./DeferredStore.ts"
/** Marks a step whose answers are less than the user may expect. */
export * as Degradation from "./Degradation.ts"
/** How every provider is doing. */
export * as HealthChecker from "./HealthChecker.ts"
/** Asks a second time when the first answer is unusually late. */
export * as Hedge from "./Hedge.ts"
/** Serves an earlier answer when nobody can give a new one. */
export * as EmergencyCache from "./EmergencyCache.ts"
/** Says why two questions may not share an answer. */
export * as DifferenceGuard from "./DifferenceGuard.ts"
/** The model that turns a question into a vector. */
export * as Embedder from "./Embedder.ts"
/** Many providers become one. */
export * as Fallback from "./Fallback.ts"
/** Who passes, who waits and who is turned away, as a pure machine. */
export * as Gate from "./Gate.ts"
/** What is put around requests and calls while an application runs. */
export * as Instrument from "./Instrument.ts"
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
/** How much may be sent and when, as pure functions. */
export * as Meter from "./Meter.ts"
/** Counts what happens. */
export * as Metrics from "./Metrics.ts"
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
/** Keeps to the rates that a provider allows. */
export * as RateLimit from "./RateLimit.ts"
/** Where the meters of rate limits are kept. */
export * as RateLimitStore from "./RateLimitStore.ts"
/** Recognises a short answer in which the model declines. */
export * as Refusal from "./Refusal.ts"
/** The configuration of a chain, from YAML, JSON or code. */
export * as ResilienceConfig from "./ResilienceConfig.ts"
/** Where the questions are kept that have a stored answer. */
export * as QuestionStore from "./QuestionStore.ts"
/** What happened while requests were served. */
export * as ResilienceEvent from "./ResilienceEvent.ts"
/** Asks the same provider again when this can help. */
export * as Retry from "./Retry.ts"
/** The order in which steps of equal priority are asked. */
export * as Routing from "./Routing.ts"
/** Finds the stored answer to a question asked in other words. */
export * as SimilarAnswers from "./SimilarAnswers.ts"
/** Says in one sentence how things stand. */
export * as Situation from "./Situation.ts"
/** Sends a provider that rejects most calls no more than it may accept. */
export * as Throttle from "./Throttle.ts"
/** Bounds how long one provider may take. */
export * as Timeouts from "./Timeouts.ts"
/** What a provider says about its limits, as pure functions. */
export * as ToldMeter from "./ToldMeter.ts"
/** Shows each request as a span. */
export * as Traces from "./Traces.ts"
/** Finds the nearest vectors of one scope. */
export * as VectorIndex from "./VectorIndex.ts"
/** What real calls show about one provider. */
export * as Vitals from "./Vitals.ts"
