/**
 * cockatiel around fetch: retry, breaker and timeout as in the first example of its documentation, and its fallback policy.
 *
 * A stream is guarded until its headers are there; what comes after them is read outside of the policies, because what was shown to
 * the user cannot be asked for again. A program that parses the protocol itself stops at `[DONE]`.
 */
import {
  circuitBreaker,
  ConsecutiveBreaker,
  ExponentialBackoff,
  fallback,
  handleAll,
  retry,
  timeout,
  TimeoutStrategy,
  wrap
} from "cockatiel"
import type { Answer, Limits, MakeClient, Upstreams } from "../src/Client.ts"
import { completion, deltas, post } from "./wire.ts"

/** The primary within its policies, and the backup within its own when that fails. */
export const guarding = (upstreams: Upstreams, limits: Limits) => {
  const primary = policies(limits)
  const backup = policies(limits)
  return <A>(run: (baseUrl: string, signal: AbortSignal) => Promise<A>, signal: AbortSignal): Promise<A> =>
    fallback(handleAll, () => backup.execute((context) => run(upstreams.backup, context.signal), signal)).execute(
      () => primary.execute((context) => run(upstreams.primary, context.signal), signal),
      signal
    )
}

export const make: MakeClient = (upstreams, limits) => {
  const guarded = guarding(upstreams, limits)
  return {
    ask: (question, signal) =>
      guarded(async (baseUrl, signal) => completion(await post(baseUrl, question, false, signal)), signal),
    stream: async (question, signal, onText): Promise<Answer> => {
      let text = ""
      let finishReason: string | undefined
      // The signal of a policy ends with it, so the stream is read under the signal of the caller.
      const response = await guarded((baseUrl, inner) => openUnder(baseUrl, question, signal, inner), signal)
      for await (const chunk of deltas(response)) {
        text += chunk.text
        onText(chunk.text)
        finishReason = chunk.finishReason ?? finishReason
      }
      return { text, finishReason }
    }
  }
}

const openUnder = async (baseUrl: string, question: string, caller: AbortSignal, policy: AbortSignal) => {
  const opening = new AbortController()
  const abort = () => opening.abort()
  policy.addEventListener("abort", abort, { once: true })
  try {
    return await post(baseUrl, question, true, AbortSignal.any([caller, opening.signal]))
  } finally {
    policy.removeEventListener("abort", abort)
  }
}

const policies = (limits: Limits) =>
  wrap(
    retry(handleAll, { maxAttempts: 3, backoff: new ExponentialBackoff() }),
    circuitBreaker(handleAll, { halfOpenAfter: 10 * 1000, breaker: new ConsecutiveBreaker(5) }),
    timeout(limits.attemptMillis, TimeoutStrategy.Aggressive)
  )
