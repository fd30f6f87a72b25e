import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as Policy from "@llm-resilience/core/Policy"
import type { Failure } from "@llm-resilience/core/Provider"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"

/** How a call ended for whoever is outside of the tap. */
export type Outcome =
  | { readonly _tag: "Answered" }
  | { readonly _tag: "Failed"; readonly error: Failure }
  | { readonly _tag: "Died" }
  | { readonly _tag: "Left" }

/**
 * Looks at what passes between two policies and changes nothing. It shares no code with the policies, because it is there to doubt them.
 */
export const tap =
  <T extends object>(see: {
    readonly started: (request: LlmRequest) => T
    readonly committed: (call: T) => void
    readonly ended: (call: T, outcome: Outcome) => void
  }): Policy.Policy =>
  (self) =>
    Effect.succeed({
      ...self,
      generate: (request) =>
        Effect.suspend(() => {
          let call: T | undefined
          return Effect.onExitPrimitive(
            Effect.suspend(() => {
              call = see.started(request)
              return self.generate(request)
            }),
            (exit) => {
              if (call !== undefined) see.ended(call, outcomeOf(exit))
              return undefined
            }
          )
        }),
      stream: (request) =>
        Stream.unwrap(
          Effect.map(
            Effect.acquireRelease(
              Effect.sync(() => ({ call: see.started(request), committed: false, ended: false })),
              (open) =>
                Effect.sync(() => {
                  if (!open.ended) see.ended(open.call, { _tag: "Left" })
                })
            ),
            (open) => {
              const end = (outcome: Outcome): void => {
                if (open.ended) return
                open.ended = true
                see.ended(open.call, outcome)
              }
              return Stream.transformPull(self.stream(request), (pull) =>
                Effect.succeed(
                  Effect.matchCauseEffect(pull, {
                    onFailure: (cause) => {
                      if (!Cause.hasInterruptsOnly(cause)) end(outcomeOfCause(cause))
                      return Effect.failCause(cause)
                    },
                    onSuccess: (parts) => {
                      if (!open.committed && parts.some(LlmResponse.isContent)) {
                        open.committed = true
                        see.committed(open.call)
                      }
                      if (parts.at(-1)?.type === "finish") end({ _tag: "Answered" })
                      return Effect.succeed(parts)
                    }
                  })
                )
              )
            }
          )
        )
    })

const outcomeOf = (exit: Exit.Exit<unknown, Failure>): Outcome =>
  exit._tag === "Success" ? { _tag: "Answered" } : outcomeOfCause(exit.cause)

const outcomeOfCause = (cause: Cause.Cause<Failure | Cause.Done>): Outcome => {
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (error !== undefined) return Cause.isDone(error) ? { _tag: "Answered" } : { _tag: "Failed", error }
  return Cause.hasDies(cause) ? { _tag: "Died" } : { _tag: "Left" }
}
