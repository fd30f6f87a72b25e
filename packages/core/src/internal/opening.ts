import * as Arr from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as LlmResponse from "../LlmResponse.ts"
import type { Failure } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"

type Parts = Arr.NonEmptyReadonlyArray<LlmResponse.LlmStreamPart>

/** A stream that has shown its first content (or its end): from here on it belongs to the caller. */
export interface Opened {
  readonly head: Parts
  readonly rest: Pull.Pull<Parts, Failure>
  /** Gives back what the stream holds, for those who do not want the rest. */
  readonly close: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
}

/** More preamble than this is not preamble: the parts before the first content are kept in memory. */
const maxPreamble = 256

/**
 * Opens a stream up to its commit point: the preamble is held back until the first content arrives. What the stream acquires belongs
 * to a scope of its own until then and to `parent` from then on; a failure before the commit point closes it at once, so that somebody else can be asked.
 */
export const open = (
  provider: string,
  stream: Stream.Stream<LlmResponse.LlmStreamPart, Failure>,
  parent: Scope.Scope
): Effect.Effect<Opened, Failure> =>
  // It becomes the parent's when it is open: a loser that is still cleaning up must not keep the end of the stream waiting.
  Effect.flatMap(Scope.make(), (scope) =>
    Effect.onExit(
      Effect.flatMap(Channel.toPullScoped(stream.channel, scope), (pull) => {
        const preamble: Array<LlmResponse.LlmStreamPart> = []
        const step: Effect.Effect<Opened, Failure | Cause.Done> = Effect.flatMap(pull, (parts) => {
          if (parts.some((part) => part.type === "finish" || LlmResponse.isContent(part))) {
            return Effect.succeed({
              head: preamble.length === 0 ? parts : Arr.appendAll(preamble, parts),
              rest: pull,
              close: (exit) => Scope.close(scope, exit)
            })
          }
          preamble.push(...parts)
          return preamble.length > maxPreamble ? Effect.fail(invalid(provider)) : step
        })
        return Effect.tap(
          Pull.catchDone(step, () => Effect.fail(cut(provider))),
          () => Scope.addFinalizerExit(parent, (exit) => Scope.close(scope, exit))
        )
      }),
      (exit) => (Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void)
    )
  )

/**
 * Opens streams that may still be given up. What they hold becomes the parent's when one of them was chosen; whatever is given up cleans up behind
 * the back of the parent, whose end would else wait for it, whichever of the two comes first.
 */
export const onTrial = <A, E>(
  parent: Scope.Scope,
  choose: (scope: Scope.Scope) => Effect.Effect<A, E>
): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) => {
    const scope = Scope.makeUnsafe()
    return Effect.onExit(restore(choose(scope)), (exit) =>
      Exit.isSuccess(exit)
        ? Scope.addFinalizerExit(parent, (exit) => Scope.close(scope, exit))
        : Effect.forkDetach(Scope.close(scope, exit))
    )
  })

/** What a stream said up to its first content about who serves it. */
export const announced = ({ head }: Opened): LlmResponse.Served | undefined =>
  head.findLast((part) => part.type === "served")?.served

const invalid = (provider: string) =>
  new ProviderError.APIError({
    provider,
    reason: "InvalidResponse",
    description: `The stream sent more than ${maxPreamble} parts without any content`
  })

const cut = (provider: string) =>
  new ProviderError.APIError({ provider, reason: "StreamCut", description: "The stream ended without a finish part" })

/**
 * The stream of what an opening effect, given the scope of the stream, settles on: the held-back head, then the rest.
 */
export const opened = <E>(
  opening: (scope: Scope.Scope) => Effect.Effect<Opened, E>
): Stream.Stream<LlmResponse.LlmStreamPart, E | Failure> =>
  Stream.unwrap(
    Effect.map(Effect.flatMap(Effect.scope, opening), ({ head, rest }) => {
      let started = false
      return Stream.fromPull(
        Effect.succeed(
          Effect.suspend((): Pull.Pull<Parts, Failure> => {
            if (started) return rest
            started = true
            return Effect.succeed(head)
          })
        )
      )
    })
  )
