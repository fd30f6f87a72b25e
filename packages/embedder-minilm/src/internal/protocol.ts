/** What the worker is asked: the vector of one text. */
export interface Task {
  readonly id: number
  readonly text: string
}

/** What the worker says: that it has read the model, or what became of a task. */
export type Reply =
  | { readonly id: 0; readonly ready: true }
  | { readonly id: number; readonly vector: Float32Array }
  | { readonly id: number; readonly failed: string }
