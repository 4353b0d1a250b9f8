"""The processes and threads that run models, and the front's side of them: IPC, groups of workers, pools."""
