import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as LlmUnavailable from "@llm-resilience/core/LlmUnavailable"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { VirtualTime } from "../../VirtualTime.ts"
import { dice, type Dice } from "../dice.ts"
import { type FaultKind, faults, onGrid, type Plan } from "./plan.ts"

/** A request, as it goes through the chain: the simulation writes on it which one it is. */
export interface Marked extends LlmRequest {
  readonly simulated?: number
}

/** A call of a model, as the model sees it. */
export interface Call {
  readonly step: number
  readonly request: number | undefined
  readonly startedAt: number
  readonly expiresAt: number
  fault: FaultKind | "none" | "request"
  /** What it said so far. */
  said: string
  /** Its caller left, or its answer is complete: it may take a moment to clean up. */
  leaving: boolean
  ended: boolean
}

export interface World {
  readonly providers: ReadonlyArray<Provider.Provider>
  /** From now on nothing goes wrong any more. */
  readonly heal: () => void
}

/** The models of a plan: each call is drawn from the seed by the number of its request, whatever else happens. */
export const make = (
  plan: Plan,
  time: VirtualTime,
  seen: { readonly started: (call: Call) => void; readonly ended: (call: Call) => void }
): World => {
  let healed = false
  const counts = new Map<number, number>()

  const begin = (step: number, request: Marked): readonly [Call, Dice] => {
    const index = request.simulated ?? -1
    const key = index * 8 + step
    const nth = counts.get(key) ?? 0
    counts.set(key, nth + 1)
    const call: Call = {
      step,
      request: request.simulated,
      startedAt: time.now(),
      expiresAt: request.expiresAt,
      fault: "none",
      said: "",
      leaving: false,
      ended: false
    }
    seen.started(call)
    return [call, dice(plan.seed, 400, step, index, nth)]
  }

  const end = (call: Call): void => {
    call.leaving = true
    if (call.ended) return
    call.ended = true
    seen.ended(call)
  }

  const faultOf = (step: number, d: Dice): FaultKind | undefined => {
    const roll = d.next()
    if (healed) return undefined
    const model = plan.steps[step]
    if (model === undefined) return undefined
    const now = time.now()
    const outage = model.outages.find(({ from, to }) => from <= now && now < to)
    if (outage !== undefined) return outage.as
    let sum = 0
    return faults.find((fault) => roll < (sum += model.faults[fault] ?? 0))
  }

  const latencyOf = (step: number, d: Dice): number => {
    const { latency = 1, spread = 0 } = plan.steps[step] ?? {}
    if (healed) return Math.min(latency, wellWithin(plan, step))
    const long = d.chance(spread / 10) ? 10 : 1
    return onGrid(plan, latency * long * d.between(1 - spread / 2, 1 + spread))
  }

  const providers = plan.steps.map((model, step) => {
    const id = nameOf(step)
    // What waits in an interrupted call is stopped at once; what cleans up behind it takes its time.
    const stopping = (call: Call): Effect.Effect<void> => {
      call.leaving = true
      return model.cleanup === 0 || call.ended
        ? Effect.sync(() => end(call))
        : Effect.ensuring(
            Effect.sleep(model.cleanup),
            Effect.sync(() => end(call))
          )
    }
    const after = <A, E>(millis: number, then: () => Effect.Effect<A, E>): Effect.Effect<A, E> =>
      millis <= 0
        ? Effect.suspend(then)
        : Effect.callback<A, E>((resume) => Effect.sync(time.at(time.now() + millis, () => resume(then()))))

    return Provider.make({
      id,
      model: `${id}-1`,
      capabilities: {
        ...(model.contextWindow === undefined ? {} : { contextWindow: model.contextWindow }),
        prefill: model.prefill !== "no"
      },
      generate: (request) =>
        Effect.uninterruptibleMask((restore) => {
          const [call, d] = begin(step, request)
          const refusal = refusalOf(plan, step, request)
          const fault = refusal === undefined ? faultOf(step, d) : undefined
          call.fault = refusal === undefined ? (fault ?? "none") : "request"
          const answer = (): Effect.Effect<Provider.Answer, Provider.Failure> => {
            if (refusal !== undefined) return Effect.fail(refusal)
            if (fault !== undefined && fault !== "EmptyOutput") return failing(fault, id, d)
            const text = fault === "EmptyOutput" ? " " : answerOf(plan, step, request)
            call.said = text
            return Effect.succeed({ content: LlmResponse.textContent(text) })
          }
          const silent = fault === "Hang" || fault === "Stall"
          const waiting: Effect.Effect<Provider.Answer, Provider.Failure> = silent
            ? Effect.never
            : after(latencyOf(step, d), answer)
          return Effect.onExit(restore(waiting), (exit) => {
            if (exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause)) return stopping(call)
            end(call)
            return Effect.void
          })
        }),
      stream: (request) =>
        Stream.unwrap(
          Effect.map(
            Effect.acquireRelease(
              Effect.sync(() => begin(step, request)),
              ([call]) => stopping(call)
            ),
            ([call, d]) => {
              const refusal = refusalOf(plan, step, request)
              const drawn = refusal === undefined ? faultOf(step, d) : undefined
              // A model that goes on with an answer and says nothing is believed to have nothing to add.
              const fault = drawn === "EmptyOutput" && isContinuation(request) ? undefined : drawn
              call.fault = refusal === undefined ? (fault ?? "none") : "request"
              const words = continued(plan, step, request)
              const last = fault === "Cut" || fault === "Stall" ? d.int(0, words.length) : words.length
              const apart = model.tokenEvery > 0 && !(fault === "EmptyOutput")
              const latency = latencyOf(step, d)
              let at = -1
              const say = (word: string): LlmResponse.LlmStreamPart => {
                call.said += word
                return { type: "text-delta", id: "0", delta: word }
              }
              const ending = (): Effect.Effect<Parts, Provider.Failure | Cause.Done> => {
                if (fault === "Stall") return Effect.never
                // What is over needs no cleaning up.
                end(call)
                if (fault === "Cut") return Effect.fail(errorOf("StreamCut", id))
                if (fault === "NoFinish") return Cause.done()
                return Effect.succeed([{ type: "text-end", id: "0" }, finish])
              }
              const pull: Effect.Effect<Parts, Provider.Failure | Cause.Done> = Effect.suspend(() => {
                at++
                if (at === 0) {
                  if (fault === "Hang") return Effect.never
                  const over = fault !== undefined && !["Cut", "Stall", "NoFinish", "EmptyOutput"].includes(fault)
                  if (refusal !== undefined || over) {
                    return after(latency, () => {
                      end(call)
                      return refusal === undefined ? failing(fault ?? "Network", id, d) : Effect.fail(refusal)
                    })
                  }
                  return after(latency, () => Effect.succeed<Parts>([{ type: "text-start", id: "0" }]))
                }
                if (fault === "EmptyOutput") return ending()
                if (!apart) {
                  if (at > 1) return ending()
                  const [first, ...rest] = words.slice(0, last).map(say)
                  return first === undefined ? ending() : Effect.succeed<Parts>([first, ...rest])
                }
                const word = at <= last ? words[at - 1] : undefined
                return word === undefined
                  ? ending()
                  : after(at === 1 ? 0 : model.tokenEvery, () => Effect.succeed<Parts>([say(word)]))
              })
              return Stream.fromPull(Effect.succeed(pull))
            }
          )
        )
    })
  })
  return {
    providers,
    heal: () => {
      healed = true
    }
  }
}

/** A latency that no timeout and no rule about slow calls has anything against. */
const wellWithin = (plan: Plan, step: number): number => {
  const { breaker, hedge, timeouts } = plan.steps[step] ?? {}
  const slow = breaker === undefined || breaker.trip._tag === "Consecutive" ? undefined : breaker.trip.slowAfter
  const { attempt, firstToken } = timeouts ?? {}
  const limits = [slow, attempt, firstToken, breaker?.probeLease, hedge, plan.chain.hedge, plan.health?.timeout]
  return Math.min(2000, ...limits.map((limit) => limit ?? Infinity)) / 4
}

type Parts = readonly [LlmResponse.LlmStreamPart, ...Array<LlmResponse.LlmStreamPart>]

const finish = { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage } as const

export const nameOf = (step: number): string => String.fromCharCode(97 + step)

const errorOf = (reason: ProviderError.Reason, provider: string): ProviderError.APIError =>
  new ProviderError.APIError({ provider, reason, description: "simulated" })

const failing = (fault: FaultKind, provider: string, d: Dice): Effect.Effect<never, Provider.Failure> => {
  switch (fault) {
    case "RateLimited":
      return Effect.fail(new ProviderError.RateLimited({ provider, retryAfter: Option.none() }))
    case "RateLimitedFor": {
      const retryAfter = Duration.millis(d.pick([50, 700, 2000, 8000, 90_000]))
      return Effect.fail(new ProviderError.RateLimited({ provider, retryAfter: Option.some(retryAfter) }))
    }
    case "Overloaded": {
      const retryAfter = d.chance(0.3) ? Duration.millis(d.pick([300, 3000])) : undefined
      return Effect.fail(
        new ProviderError.APIError({
          provider,
          reason: fault,
          description: "simulated",
          ...(retryAfter === undefined ? {} : { retryAfter })
        })
      )
    }
    case "Unavailable":
      return Effect.fail(LlmUnavailable.make([]))
    case "Defect":
      return Effect.die("a defect of the model's adapter")
    case "Cut":
    case "NoFinish":
      return Effect.fail(errorOf("StreamCut", provider))
    case "Hang":
    case "Stall":
      return Effect.never
    default:
      return Effect.fail(errorOf(fault, provider))
  }
}

/** Requests that no model, or only some, will answer whatever the weather. */
const refusalOf = (plan: Plan, step: number, request: LlmRequest): ProviderError.ProviderError | undefined => {
  const kind = questionOf(request).kind
  const id = nameOf(step)
  if (kind === "invalid") return errorOf("InvalidRequest", id)
  if (kind === "refused") return errorOf("ContentPolicy", id)
  const window = plan.steps[step]?.contextWindow
  return kind === "tooLong" && (window === undefined || window < 100_000)
    ? errorOf("ContextLengthExceeded", id)
    : undefined
}

const isContinuation = (request: LlmRequest): boolean => request.prompt.content.at(-1)?.role === "assistant"

// The first user message is the question, as in "ordinary q7": what is simulated is that the model reads it.
const questionOf = (request: LlmRequest): { readonly kind: string; readonly question: string } => {
  const message = request.prompt.content[0]
  const part = typeof message?.content === "string" ? undefined : message?.content[0]
  const [kind = "", question = ""] = part?.type === "text" ? part.text.split(" ") : []
  return { kind, question }
}

/** What a request is about. An answer begins with it, so that an answer to somebody else cannot hide. */
export const identityOf = (request: LlmRequest): string =>
  `${questionOf(request).question}.${request.scope ?? ""}.${request.tools.map((tool) => tool.name).join("+")}`

const wordsOf = (plan: Plan, step: number, request: LlmRequest): ReadonlyArray<string> => {
  const identity = identityOf(request)
  const known = all.get(plan.sameAnswers ? "" : nameOf(step)) ?? []
  return [identity, ...known.slice(0, lengthOf(identity) - 1)]
}

const all: ReadonlyMap<string, ReadonlyArray<string>> = new Map(
  ["", "a", "b", "c", "d", "e", "f", "g", "h"].map((author) => [
    author,
    Array.from({ length: 40 }, (_, index) => ` ${index + 1}${author}`)
  ])
)

/** How many words an answer has: 3, 9 or 40, by what it is about. */
export const lengthOf = (identity: string): number => {
  let sum = 0
  for (let index = 0; index < identity.length; index++) sum += identity.charCodeAt(index)
  return [3, 9, 40][sum % 3] ?? 3
}

const answerOf = (plan: Plan, step: number, request: LlmRequest): string => wordsOf(plan, step, request).join("")

// A model that accepts a prefill goes on behind the last whole word of it. One that ignores it although it says otherwise can be told
// only by its words: where all know the same ones.
const continued = (plan: Plan, step: number, request: LlmRequest): ReadonlyArray<string> => {
  const words = wordsOf(plan, step, request)
  const last = request.prompt.content.at(-1)
  const { prefill = "no" } = plan.steps[step] ?? {}
  if (prefill === "no" || (prefill === "ignored" && plan.sameAnswers) || last?.role !== "assistant") return words
  const part = typeof last.content === "string" ? undefined : last.content[0]
  return part?.type === "text" ? words.slice(part.text.split(" ").length) : words
}
