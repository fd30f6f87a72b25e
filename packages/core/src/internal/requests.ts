import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as LlmRequest from "../LlmRequest.ts"
import type { Served } from "../LlmResponse.ts"
import * as Policy from "../Policy.ts"
import type { Provider } from "../Provider.ts"
import type { Hub } from "../ResilienceEvent.ts"
import { allowanceOf } from "./allowance.ts"
import { watched } from "./calls.ts"

/** Numbers each request, gives it the standing deadline and what it may spend on attempts. */
export const numbered = (self: Provider, standing: Duration.Duration | undefined, attempts: number): Provider => {
  let requests = 0
  // A request that comes from a chain around this one keeps its number and what is left of its attempts.
  const accept = (request: LlmRequest.LlmRequest): LlmRequest.LlmRequest => ({
    ...request,
    allowance: allowanceOf(request, attempts),
    id: request.id === 0 ? ++requests : request.id,
    deadline: request.deadline ?? standing
  })
  return {
    ...self,
    generate: (asked) => Effect.suspend(() => self.generate(accept(asked))),
    stream: (asked) => Stream.suspend(() => self.stream(accept(asked)))
  }
}

/** Bounds what a policy around the chain asks of itself, like a queue that is worked off: it may spend as much as a request. */
export const bounded = (self: Provider, attempts: number): Provider => ({
  ...self,
  generate: (asked) => self.generate(LlmRequest.allow(asked, attempts)),
  stream: (asked) => self.stream(LlmRequest.allow(asked, attempts))
})

/** Publishes how each request to a chain starts and ends. */
export const published = (chain: Provider, hub: Hub): Provider => {
  const ended = (
    request: number,
    method: "generate" | "stream",
    duration: Duration.Duration,
    outcome: Policy.Outcome,
    served?: Served
  ) => {
    if (outcome._tag === "Abandoned") return hub.publish({ _tag: "RequestAbandoned", request, method, duration })
    if (outcome._tag === "Failed")
      return hub.publish({ _tag: "RequestFailed", request, method, duration, error: outcome.error })
    if (served === undefined) return
    if (served.notice !== undefined) hub.publish({ _tag: "NoticeGiven", request, notice: served.notice })
    hub.publish({ _tag: "RequestAnswered", request, method, served, duration })
  }
  const told: Provider["generate"] = (request) => {
    // `numbered` builds this anew for each run, so what is remembered here is of one.
    let clock: Clock.Clock | undefined
    let start = 0n
    // It begins inside of what sees the end, so that nobody leaves between the two.
    const begun = Clock.clockWith((current) => {
      clock = current
      start = clock.monotonicTimeNanosUnsafe()
      hub.publish({ _tag: "RequestStarted", request: request.id, method: "generate" })
      return chain.generate(request)
    })
    return Effect.onExitPrimitive(begun, (exit) => {
      if (clock === undefined) return undefined
      const duration = Duration.nanos(clock.monotonicTimeNanosUnsafe() - start)
      const served = exit._tag === "Success" ? exit.value.served : undefined
      ended(request.id, "generate", duration, Policy.outcomeOf(chain.id, exit, 0), served)
      return undefined
    })
  }
  return {
    ...chain,
    generate: (request) => (hub.active() ? told(request) : chain.generate(request)),
    stream: (request) =>
      hub.active()
        ? watched(
            chain.stream(request),
            () => {
              hub.publish({ _tag: "RequestStarted", request: request.id, method: "stream" })
              return {}
            },
            ({ served }, exit, millis) =>
              ended(request.id, "stream", Duration.millis(millis), Policy.outcomeOf(chain.id, exit, millis), served)
          )
        : chain.stream(request)
  }
}
