/** Stores one operation of which goes wrong for a while. */
import { Effect } from "effect"

type Asked = Effect.Effect<unknown, unknown>

/** How an operation goes wrong: what becomes of one that would be done, given the error that its store may fail with. */
export const faults = {
  fails: (_, error) => Effect.fail(error),
  "loses its answer": (doing, error) => Effect.andThen(doing(), Effect.fail(error)),
  hangs: () => Effect.never,
  "is done and hangs": (doing) => Effect.andThen(doing(), Effect.never),
  "cannot be stopped": () => Effect.uninterruptible(Effect.never),
  "takes two seconds": (doing) => Effect.delay(Effect.suspend(doing), "2 seconds"),
  "is done and answers two seconds later": (doing) =>
    Effect.flatMap(doing(), (answer) => Effect.as(Effect.sleep("2 seconds"), answer)),
  "takes a minute": (doing) => Effect.delay(Effect.suspend(doing), "1 minute"),
  dies: () => Effect.die("driver"),
  throws: () => {
    throw new Error("driver")
  }
} satisfies Record<string, (doing: () => Asked, error: unknown) => Asked>

export type Fault = keyof typeof faults

export const kinds = Object.keys(faults) as ReadonlyArray<Fault>

/** The store, with an operation that goes wrong the first so many `times` that it is asked for. */
export const faulty = <S extends object>(
  store: S,
  operation: keyof S,
  fault: Fault,
  { error, times }: { readonly error: unknown; readonly times: number }
): { readonly store: S; readonly asked: () => number; readonly left: () => number } => {
  let count = 0
  const sound: unknown = store[operation]
  const asked =
    (doing: () => Asked): (() => Asked) =>
    () =>
      count++ < times ? faults[fault](doing, error) : doing()
  // An operation without arguments is an effect and no function.
  const broken = Effect.isEffect(sound)
    ? Effect.suspend(asked(() => sound as Asked))
    : (...args: ReadonlyArray<unknown>) => asked(() => (sound as (...args: ReadonlyArray<unknown>) => Asked)(...args))()
  return { store: { ...store, [operation]: broken }, asked: () => count, left: () => Math.max(0, times - count) }
}
